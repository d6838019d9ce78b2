"""Make the reference anew: `python -m models.reference` records embeddings, `… draw` draws the images before.

Needed when the default backbone or the images change, never to make a failing start-up pass: that failure
says that embeddings in users' databases no longer match new ones.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from models.backbone import build_backbone
from models.graph import embed, preprocessing_of
from models.identity import BackboneConfig
from models.reference import IMAGES, RECORDED, reference_pixels

HERE = Path(__file__).parent
SIZES = {
    "discs.jpg": (639, 427),
    "turned.jpg": (333, 501),
    "large.jpg": (1601, 1203),
    "grid.png": (300, 301),
    "glass.webp": (97, 161),
}


def draw(name: str, rng: np.random.Generator) -> Image.Image:
    """Discs and strokes of random colours on a gradient: enough texture to tell one decoder from another."""
    width, height = SIZES[name]
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    corners = rng.uniform(0, 255, (2, 3))
    background = corners[0] * across[..., None] + corners[1] * down[..., None]
    image = Image.fromarray(np.clip(background, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(24):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius = rng.uniform(0.02, 0.2) * min(width, height)
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        if rng.random() < 0.6:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            end = (x + rng.uniform(-3, 3) * radius, y + rng.uniform(-3, 3) * radius)
            pen.line((x, y, *end), fill=colour, width=max(2, int(radius / 4)))
    return image


def draw_all() -> None:
    rng = np.random.default_rng(0)
    for name in IMAGES:
        image, path = draw(name, rng), HERE / name
        if name == "turned.jpg":
            exif = Image.Exif()
            exif[0x0112] = 6
            image.save(path, quality=85, exif=exif.tobytes())
        elif name == "grid.png":
            image.convert("L").save(path, optimize=True)
        elif name == "glass.webp":
            image.putalpha(Image.radial_gradient("L").resize(image.size))
            image.save(path, lossless=True)
        else:
            image.save(path, quality=80)


def record() -> None:
    for name in RECORDED:
        backbone = build_backbone(BackboneConfig(name=name))
        embeddings = embed(backbone, reference_pixels(preprocessing_of(backbone)))
        np.save(HERE / f"{name}.npy", embeddings, allow_pickle=False)


if __name__ == "__main__":
    if sys.argv[1:] == ["draw"]:
        draw_all()
    record()
