"""Bytes → uint8 (H, W, C) at the backbone's input size, as its weights expect it. Pillow and NumPy only.

The image is cropped and resized in one step, in its stored orientation, after libjpeg has scaled it while
decoding: about 3 ms for a 640x480 JPEG and 15 ms for 12 megapixels. The crop has torchvision's integer sizes,
so the result agrees with timm's own transform (exactly, but for libjpeg's scaling). Normalisation is the
graph's part.

Decode threads share this, so it uses nothing that works by changing global state, such as
`warnings.catch_warnings`.
"""

import re
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import imagehash
import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from models.arrays import UInt8Array
from models.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from models.identity import Preprocessing

MediaType = Literal["image/jpeg", "image/png", "image/webp"]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class _Orientation:
    """How a stored image becomes upright, and where an upright point lies in the stored one."""

    transpose: Image.Transpose | None
    swapped: bool = False  # stored x is upright y
    from_right: bool = False  # stored x counts from the other side
    from_bottom: bool = False


# Source: Exif 2.32, tag 0x0112, values 1-8.
_ORIENTATIONS = {
    1: _Orientation(None),
    2: _Orientation(Image.Transpose.FLIP_LEFT_RIGHT, from_right=True),
    3: _Orientation(Image.Transpose.ROTATE_180, from_right=True, from_bottom=True),
    4: _Orientation(Image.Transpose.FLIP_TOP_BOTTOM, from_bottom=True),
    5: _Orientation(Image.Transpose.TRANSPOSE, swapped=True),
    6: _Orientation(Image.Transpose.ROTATE_270, swapped=True, from_bottom=True),
    7: _Orientation(Image.Transpose.TRANSVERSE, swapped=True, from_right=True, from_bottom=True),
    8: _Orientation(Image.Transpose.ROTATE_90, swapped=True, from_right=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImage:
    """An image, upright, cropped and resized for one backbone."""

    pixels: UInt8Array  # (input_size, input_size, channels)
    media_type: MediaType
    width: int  # pixels, of the whole upright image
    height: int


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Leave the density unread: it isn't used, and Pillow's reader warns on damaged EXIF blocks."""


def decode_image(data: bytes, preprocessing: Preprocessing, *, max_pixels: int) -> DecodedImage:
    """Decode one JPEG, PNG or WebP file; of an animated one, the first frame.

    Args:    data: the file's bytes.
             max_pixels: compared with the header's size, before a pixel is decoded.
    Raises:  UnsupportedImage: none of the types read here.
             ImageTooLarge: more than max_pixels.
             InvalidImage: empty, truncated or damaged.
    """
    if not data:
        raise InvalidImage("the file is empty")
    try:
        image, media_type = _open(data)
        _check_size(image, max_pixels)
        return _decode(image, media_type, preprocessing)
    except InvalidImage:
        raise
    except Image.DecompressionBombError as error:  # WebP's own check, before it allocates a canvas
        said = re.search(r"\d+", str(error))
        raise ImageTooLarge(pixels=int(said[0]) if said else max_pixels + 1, limit=max_pixels) from None
    except Exception as error:  # noqa: BLE001 - on damaged bytes Pillow's plugins raise nearly every built-in type
        truncated = isinstance(error, EOFError) or "truncated" in str(error)
        raise InvalidImage("the file is truncated" if truncated else "the file is damaged") from None


def perceptual_hash(pixels: UInt8Array) -> int:
    """Hash how an image looks: near-duplicates differ in a few of the 64 bits.

    Args:    pixels: (H, W, C) uint8, as decoded.
    Returns: 0 <= hash < 2**64.
    Source:  pHash (Zauner 2010), signs of the low frequencies of a cosine transform.
    """
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return int(str(imagehash.phash(image)), 16)


def _open(data: bytes) -> tuple[ImageFile, MediaType]:
    # The plugins directly, by signature: Image.open would try others, and warns from its JPEG factory.
    if data.startswith(b"\xff\xd8"):
        return _Jpeg(BytesIO(data)), "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile(BytesIO(data)), "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile(BytesIO(data)), "image/webp"
    raise UnsupportedImage


def _check_size(image: ImageFile, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(pixels=width * height, limit=max_pixels)


def _decode(image: ImageFile, media_type: MediaType, preprocessing: Preprocessing) -> DecodedImage:
    if media_type == "image/png":
        image.load()  # its EXIF block may follow the pixels
    orientation = _ORIENTATIONS[exif_orientation(image.info.get("exif", b""))]
    stored = image.size
    width, height = stored[::-1] if orientation.swapped else stored
    box = _stored_box(crop_box(width, height, preprocessing), (width, height), orientation)

    resized_to = int(preprocessing.input_size / preprocessing.crop_pct)
    # libjpeg halves while decoding, down to twice the size that is needed: nothing visible is lost
    drafted = image.draft("RGB", (2 * resized_to, 2 * resized_to))
    scale = stored[0] / drafted[1][2] if drafted else 1  # a power of two
    pixels = _flatten(image, "L" if preprocessing.channels == 1 else "RGB").resize(
        (preprocessing.input_size, preprocessing.input_size),
        _RESAMPLING[preprocessing.interpolation],
        box=(box[0] / scale, box[1] / scale, box[2] / scale, box[3] / scale),
    )
    if orientation.transpose is not None:
        pixels = pixels.transpose(orientation.transpose)
    if preprocessing.channels == 3 and pixels.mode == "L":
        pixels = pixels.convert("RGB")
    array = np.array(pixels).reshape(preprocessing.input_size, preprocessing.input_size, -1)
    return DecodedImage(pixels=array, media_type=media_type, width=width, height=height)


def crop_box(width: int, height: int, preprocessing: Preprocessing) -> Box:
    """Where the centre crop of the resized image lies in the original one.

    Source: torchvision's integer sizes: `Resize` gives int(S * long / short), `CenterCrop` starts at
            int(round((resized - cropped) / 2)); timm takes S = floor(input_size / crop_pct).
    """
    cropped = preprocessing.input_size
    short = int(cropped / preprocessing.crop_pct)
    if preprocessing.crop_mode == "squash":
        resized = (short, short)
    elif width <= height:
        resized = (short, int(short * height / width))
    else:
        resized = (int(short * width / height), short)
    left, top = (round((side - cropped) / 2) for side in resized)
    across, down = width / resized[0], height / resized[1]
    return left * across, top * down, (left + cropped) * across, (top + cropped) * down


def _stored_box(box: Box, upright: tuple[int, int], orientation: _Orientation) -> Box:
    left, top, right, bottom = box
    width, height = upright
    if orientation.swapped:
        left, top, right, bottom = top, left, bottom, right
        width, height = height, width
    if orientation.from_right:
        left, right = width - right, width - left
    if orientation.from_bottom:
        top, bottom = height - bottom, height - top
    # rounding of the divisions must not step over the border
    return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))


def _flatten(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """Decode to one channel or three, on white; grey may stay grey under "RGB"."""
    image.load()
    if image.mode == "I;16":
        return _from_16_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert(mode)
    if image.mode in ("L", "1"):
        return image.convert("L")
    return image if image.mode == mode else image.convert(mode)  # palettes, CMYK, YCbCr; it copies its own


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    grey = ((values + 128) // 257).astype(np.uint8)  # 65535 / 255 = 257
    if "transparency" in image.info:  # one value stands for "see-through"
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def exif_orientation(exif: bytes) -> int:
    """The orientation of an EXIF block, 1-8; 1 where it says none or is damaged.

    Read here because Pillow's reader warns on damaged blocks, and warnings can't be caught by thread.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * entry)
            if (tag, kind, count) == (0x0112, 3, 1):
                return value if value in _ORIENTATIONS else 1
    except struct.error:
        pass
    return 1
