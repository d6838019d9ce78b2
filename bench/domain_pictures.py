"""Groups of pictures from Debian's packages, scikit-learn and elpv-dataset: photos, drawings, far ones."""

import gzip
import io
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

from service.solar_cells import read_cells

Kind = Literal["near", "drawn", "far"]

PACKAGES = (
    "colobot-common-textures",
    "fonts-noto-color-emoji",
    "gnome-backgrounds",
    "lomiri-wallpapers-16.04",
    "mate-backgrounds",
    "mricron-data",
    "python3-skimage",
    "tuxpaint-stamps-default",
)
NO_PHOTOS = ("pattern", "Painting", "Picture", "seeding")  # wallpapers that are none
STAMPS = "usr/share/tuxpaint/stamps"
SKIMAGE = "usr/lib/python3/dist-packages/skimage/data"
NIFTI_TYPES = {2: np.uint8, 4: np.int16, 16: np.float32, 256: np.int8, 512: np.uint16}


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    kind: Kind
    images: list[bytes]  # files, as they would be uploaded


def fetch(folder: Path) -> None:
    """Unpack the packages that aren't there yet. Raises: CalledProcessError: no Debian, or out of reach."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not (folder / package).is_dir():
            subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)  # noqa: S607
            (archive,) = folder.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", archive, folder / package], check=True)  # noqa: S607
            archive.unlink()


def groups(folder: Path) -> Iterable[Group]:
    """All of them, one after another, the same ones every time."""
    yield from _photos(folder)
    yield from _drawings(folder)
    yield from _far(folder)


def _photos(folder: Path) -> Iterable[Group]:
    for name, folders in {
        "birds": ("animals/birds",),
        "mammals": ("animals/mammals",),
        "fish, insects, shells": (
            "animals/fish",
            "animals/insects",
            "animals/amphibians",
            "animals/shellfish",
        ),
        "fruit": ("food/fruit",),
        "vegetables, nuts": ("food/vegetables", "food/nuts"),
        "flowers, trees": ("plants",),
        "household, clothes, sports": ("household", "clothes", "sports", "hobbies"),
        "vehicles": ("vehicles",),
    }.items():
        yield Group(name, "near", _stamps(folder, *folders))
    wallpapers = sorted((folder / "mate-backgrounds").rglob("nature/*.jpg"))
    wallpapers += sorted((folder / "lomiri-wallpapers-16.04").rglob("*.jpg"))
    photos = [path for path in wallpapers if not any(word in path.name for word in NO_PHOTOS)]
    yield Group("landscapes (crops)", "near", _crops(photos, each=3, side=800))


def _drawings(folder: Path) -> Iterable[Group]:
    yield Group("cartoons", "drawn", _stamps(folder, ".", cartoon=True))
    yield Group("emoji", "drawn", _emoji(folder / "fonts-noto-color-emoji"))
    yield Group("road signs", "drawn", _stamps(folder, "town/roadsigns"))
    yield Group("signing hands", "drawn", _stamps(folder, "symbols/alphabets/asl"))
    yield Group("coins, notes", "drawn", _stamps(folder, "symbols/money"))


def _far(folder: Path) -> Iterable[Group]:
    rng = np.random.default_rng(0)
    templates = folder / "mricron-data/usr/share/mricron/templates"
    skimage = folder / "python3-skimage" / SKIMAGE
    textures = folder / "colobot-common-textures/usr/share/games/colobot/textures"
    backgrounds = sorted((folder / "gnome-backgrounds").rglob("*-d.webp"))
    large = [path for path in backgrounds if path.stat().st_size > 10_000]  # others are a plain colour
    yield Group("solar cells", "far", [cell.path.read_bytes() for cell in read_cells()])
    yield Group(
        "brain scans",
        "far",
        [*_slices(templates / "ch2.nii.gz"), *_slices(templates / "inia19-t1-brain.nii.gz")],
    )
    tissue, retina = skimage / "ihc.png", skimage / "retina.jpg"
    yield Group("tissue, retina (crops)", "far", [*_crops([tissue], 40, 160), *_crops([retina], 40, 300)])
    yield Group(
        "ground textures", "far", [path.read_bytes() for path in sorted(textures.glob("[dglmrt]*.png"))]
    )
    sky = [skimage / "hubble_deep_field.jpg", skimage / "moon.png"]
    yield Group("galaxies, moon (crops)", "far", _crops(sky, each=40, side=200))
    yield Group("abstract (crops)", "far", _crops(large, each=10, side=800))
    yield Group("letters", "far", _stamps(folder, "symbols/alphabets/english"))
    squares = [np.kron(digit * 15.9, np.ones((8, 8))) for digit in load_digits().images]
    yield Group("digits of 8x8", "far", [_png(Image.fromarray(each.astype(np.uint8))) for each in squares])
    noise = rng.integers(0, 256, (80, 224, 224, 3), dtype=np.uint8)
    yield Group("noise", "far", [_png(Image.fromarray(each)) for each in noise])


def _stamps(folder: Path, *under: str, cartoon: bool = False) -> list[bytes]:
    stamps = folder / "tuxpaint-stamps-default" / STAMPS
    paths = [path for each in under for path in sorted((stamps / each).rglob("*.png"))]
    return [path.read_bytes() for path in paths if ("cartoon" in path.parts) == cartoon]


def _crops(paths: Iterable[Path], each: int, side: int) -> list[bytes]:
    """Squares of at most `side` pixels, anywhere in the pictures."""
    rng = np.random.default_rng(0)
    found = []
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        if side >= 800:  # the photos' own size is that of a screen
            image.thumbnail((1600, 1600))
        cut = min(side, *image.size)
        for _ in range(each):
            left, top = (int(rng.integers(length - cut + 1)) for length in image.size)
            found.append(_png(image.crop((left, top, left + cut, top + cut))))
    return found


def _emoji(package: Path) -> list[bytes]:
    (file,) = package.rglob("*.ttf")
    font = ImageFont.truetype(str(file), 109)  # the one size that its bitmaps have
    found = []
    for code in range(0x1F400, 0x1F4FF):
        image = Image.new("RGB", (136, 128), "white")
        ImageDraw.Draw(image).text((0, 0), chr(code), font=font, embedded_color=True)
        found.append(_png(image))
    return found


def _slices(path: Path) -> list[bytes]:
    """The inner slices of a volume along each axis, grey. Source: NIfTI-1's header, little-endian."""
    data = gzip.decompress(path.read_bytes())
    columns, rows, planes = struct.unpack_from("<3h", data, 42)
    (kind,), (offset,) = struct.unpack_from("<h", data, 70), struct.unpack_from("<f", data, 108)
    voxels = np.frombuffer(data, NIFTI_TYPES[kind], columns * rows * planes, int(offset))
    volume = voxels.reshape(planes, rows, columns).astype(np.float32)
    grey = (255 * (volume / np.percentile(volume, 99.8)).clip(0, 1)).astype(np.uint8)
    return [
        _png(Image.fromarray(np.take(grey, index, axis)[::-1]))
        for axis in range(3)
        for index in range(grey.shape[axis] // 4, 3 * grey.shape[axis] // 4, 4)
    ]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
