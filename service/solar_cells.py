"""Photos to try the service with: cells of solar panels, sound or defective.

Source: the package elpv-dataset (CC BY-NC-SA 4.0): 2,624 photos of 300x300 pixels, grey; Deitsch et al. 2019.
Only the demo and the tests use them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LABELS = ("defective", "sound")
HELD_BACK = 12  # photos that are never trained on


class PhotosMissing(Exception):
    def __init__(self) -> None:
        super().__init__("the photos are not installed: run `make install`, or pip install 'polyhead[demo]'")


@dataclass(frozen=True, slots=True)
class Cell:
    """One photo of a solar cell whose label is beyond doubt."""

    path: Path
    label: str


def read_cells() -> list[Cell]:
    """All clear cases of the data set: those that every expert called sound, or defective.

    Raises: PhotosMissing: the package isn't installed.
    """
    try:
        import elpv_dataset  # noqa: PLC0415  # 90 MB that only the demo needs
    except ImportError:
        raise PhotosMissing from None
    data = Path(elpv_dataset.__file__).parent / "data"
    labels = {"0.0": "sound", "1.0": "defective"}  # probability of a defect; 1/3 and 2/3 are disputed
    rows = [line.split() for line in (data / "labels.csv").read_text("utf-8").splitlines()]
    return [Cell(data / name, labels[probability]) for name, probability, _ in rows if probability in labels]


def choose(cells: Sequence[Cell], count: int) -> tuple[list[Cell], list[Cell]]:
    """`count` cells (an even number) and HELD_BACK others, half of each label, spread over the data set."""
    chosen, held_back = list[Cell](), list[Cell]()
    for label in LABELS:
        of_label = [cell for cell in cells if cell.label == label]
        wanted = (count + HELD_BACK) // len(LABELS)
        spread = [of_label[i * len(of_label) // wanted] for i in range(wanted)]
        step = wanted // (HELD_BACK // len(LABELS))
        held = spread[::step][: HELD_BACK // len(LABELS)]
        held_back += held
        chosen += [cell for cell in spread if cell not in held]
    return chosen, held_back


def write_photos(folder: Path, count: int) -> None:
    """folder/labelled/<label>/….png to train on and folder/held-back/<label>-….png to predict."""
    chosen, held_back = choose(read_cells(), count)
    for cell in chosen:
        copy(cell, folder / "labelled" / cell.label / cell.path.name)
    for cell in held_back:
        copy(cell, folder / "held-back" / f"{cell.label}-{cell.path.name}")


def copy(cell: Cell, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(cell.path.read_bytes())
