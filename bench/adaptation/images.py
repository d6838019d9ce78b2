"""The labelled photos of the evidence: solar cells, far from the pretraining data, and stamps, near it.

Solar cells: the package elpv-dataset (CC BY-NC-SA 4.0), 2,624 photos, 300x300, grey; Deitsch et al. 2019.
Stamps: cut-out photographs of Debian's tuxpaint-stamps-default (GPL-2), fetched when a program is run.
Neither is copied into the repository.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bench.processes import BenchFailed
from models.arrays import IntArray

Domain = Literal["near", "far"]
DOMAINS: dict[str, Domain] = {"elpv": "far", "stamps": "near"}

PACKAGE = "tuxpaint-stamps-default"
STAMPS = Path("usr/share/tuxpaint/stamps")  # in the package
CLASSES = {  # label -> folder; with what is below it
    "bird": "animals/birds",
    "flower": "plants/flowers",
    "fruit": "food/fruit",
    "mammal": "animals/mammals",
    "vegetable": "food/vegetables",
}
NO_PHOTOS = ("cartoon", "plastic", "toys")  # folders
DRAWN = ("echidna", "hedgehog")
REPEATED = ("gnu-baby-stand", "gnu-sitting", "heron_greatblue_flying", "pig_golden2")  # an animal once more
DEFECTIVE = 0.5  # probability of a defect from which a cell counts as defective, as in the paper


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Collection:
    """N labelled photos on disk; the same order on every machine."""

    name: str  # of DOMAINS
    labels: tuple[str, ...]
    paths: tuple[Path, ...]
    targets: IntArray  # (N,) numbers of `labels`

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def digest(self) -> str:
        """sha256 (64 hex digits) over names, sizes and labels: whether what was cached is of these photos."""
        lines = (
            f"{path.name}\t{path.stat().st_size}\t{self.labels[target]}\n"
            for path, target in zip(self.paths, self.targets, strict=True)
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def take(self, rows: IntArray) -> "Collection":
        """Those photos alone, in that order."""
        return Collection(
            name=self.name,
            labels=self.labels,
            paths=tuple(self.paths[row] for row in rows),
            targets=self.targets[rows],
        )


def solar_cells() -> Collection:
    """Every cell, defective where the probability is at least 1/2. Raises: BenchFailed: not installed."""
    try:
        import elpv_dataset  # noqa: PLC0415  # 90 MB that nothing else needs
    except ImportError:
        raise BenchFailed("the solar cells are not installed: pip install 'polyhead[bench]'") from None
    data = Path(elpv_dataset.__file__).parent / "data"
    rows = [line.split() for line in (data / "labels.csv").read_text("utf-8").splitlines()]
    return Collection(
        name="elpv",
        labels=("defective", "sound"),
        paths=tuple(data / name for name, _, _ in rows),
        targets=np.array([float(probability) < DEFECTIVE for _, probability, _ in rows], dtype=np.int64),
    )


def stamps(root: Path) -> Collection:
    """The photographs among the stamps. Args: root: the package's folder of stamps. Raises: BenchFailed."""
    found = {label: sorted(_photographs(root / folder)) for label, folder in CLASSES.items()}
    if missing := [CLASSES[label] for label, paths in found.items() if not paths]:
        raise BenchFailed(f"{root} has no stamps in {', '.join(missing)}")
    return Collection(
        name="stamps",
        labels=tuple(found),
        paths=tuple(path for paths in found.values() for path in paths),
        targets=np.repeat(np.arange(len(found)), [len(paths) for paths in found.values()]),
    )


def _photographs(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*.png"):
        drawn = path.stem in DRAWN or set(NO_PHOTOS) & set(path.relative_to(folder).parts)
        if not drawn and path.stem not in REPEATED and not path.stem.endswith(("_mirror", "_flip")):
            yield path


def fetch_stamps(cache: Path) -> Path:
    """The package's folder of stamps; 161 MB from Debian's mirror the first time. Raises: BenchFailed."""
    unpacked = cache / PACKAGE
    if not unpacked.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _run(["apt-get", "download", PACKAGE], Path(scratch))
            (archive,) = Path(scratch).glob("*.deb")
            _run(["dpkg", "-x", archive.name, PACKAGE], Path(scratch))
            shutil.move(Path(scratch) / PACKAGE, unpacked)
    return unpacked / STAMPS


def _run(command: list[str], folder: Path) -> None:
    advice = f"run it on Debian or Ubuntu after `apt-get update`, or unpack {PACKAGE} and say --stamps FOLDER"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BenchFailed(f"there is no {command[0]} here to fetch the stamps: {advice}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()[-1]
        raise BenchFailed(f"{' '.join(command)} failed ({said}): {advice}")


def held_out(collection: Collection, share: float, seed: int) -> tuple[IntArray, IntArray]:
    """Split once: the rows that may be trained on, and those that never are.

    Args: share: of each class that is held out, 0-1.
    """
    rng = np.random.default_rng(seed)
    apart = [
        rng.permutation(np.flatnonzero(collection.targets == number))
        for number in range(len(collection.labels))
    ]
    counts = [round(share * len(rows)) for rows in apart]
    pool = np.concatenate([rows[count:] for rows, count in zip(apart, counts, strict=True)])
    held = np.concatenate([rows[:count] for rows, count in zip(apart, counts, strict=True)])
    return np.sort(pool), np.sort(held)


def sample(collection: Collection, pool: IntArray, per_class: int, seed: int) -> IntArray:
    """Rows of the pool, `per_class` of each class, or all of one that has fewer."""
    rng = np.random.default_rng(seed)
    targets = collection.targets[pool]
    chosen = [
        rng.permutation(pool[targets == number])[:per_class] for number in range(len(collection.labels))
    ]
    return np.sort(np.concatenate(chosen))


def collections(
    names: Sequence[str], *, stamps_root: Path | None, cache: Path, per_class: int | None = None
) -> Mapping[str, Collection]:
    """Those asked for, by name.

    Args:   stamps_root: where the stamps are unpacked already; per_class: photos at most, of each class.
    Raises: BenchFailed: an unknown name, or photos that can't be had.
    """
    known: dict[str, Callable[[], Collection]] = {
        "elpv": solar_cells,
        "stamps": lambda: stamps(stamps_root or fetch_stamps(cache)),
    }
    if unknown := [name for name in names if name not in known]:
        raise BenchFailed(f"there are no photos called {', '.join(unknown)}: only {', '.join(known)}")
    whole = {name: known[name]() for name in names}
    if per_class is None:
        return whole
    return {name: each.take(sample(each, np.arange(len(each)), per_class, 0)) for name, each in whole.items()}
