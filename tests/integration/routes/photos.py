"""Small images of plain kinds, which a tiny backbone can tell apart."""

import base64
import io

import numpy as np
from PIL import Image

COLOURS = {"red": (210, 40, 40), "green": (40, 190, 60), "blue": (40, 60, 200)}


def photo(label: str, number: int, *, format: str = "JPEG", size: int = 40) -> bytes:  # noqa: A002
    """A noisy image in the label's colour; another number is another image."""
    rng = np.random.default_rng([number, *label.encode()])
    pixels = np.array(COLOURS[label]) + rng.normal(0, 25, (size, size, 3))
    return encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), format)


def encoded(image: Image.Image, format: str) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def data_uri(data: bytes, media_type: str = "image/jpeg") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def files(*data: bytes, name: str = "file") -> list[tuple[str, tuple[str, bytes]]]:
    """Multipart file parts as httpx takes them."""
    return [(name, (f"{number}.jpg", each)) for number, each in enumerate(data)]
