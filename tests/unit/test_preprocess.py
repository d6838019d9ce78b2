import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from timm.data import create_transform

from models.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from models.identity import Preprocessing
from models.preprocess import decode_image, perceptual_hash

LITE0 = Preprocessing(
    input_size=224,
    channels=3,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    interpolation="bicubic",
    crop_pct=0.875,
)
RESNET = Preprocessing(
    input_size=160,
    channels=3,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bilinear",
    crop_pct=0.95,
)
SQUASH = Preprocessing(
    input_size=64,
    channels=3,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    interpolation="bicubic",
    crop_pct=0.9,
    crop_mode="squash",
)
SMALL = Preprocessing(
    input_size=32, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear", crop_pct=1.0
)
GREY = Preprocessing(
    input_size=32, channels=1, mean=(0.5,), std=(0.5,), interpolation="bilinear", crop_pct=1.0
)
FLOWER, CHINA = (Image.fromarray(photo) for photo in reversed(load_sample_images().images))
PLENTY = 50_000_000


def encoded(image, kind="JPEG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data, preprocessing=SMALL, max_pixels=PLENTY):
    return decode_image(data, preprocessing, max_pixels=max_pixels)


def oriented(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif.tobytes()


def by_timm(image, preprocessing):
    """(H, W, C) uint8 as timm's evaluation transform makes it from the whole decoded image."""
    transform = create_transform(
        input_size=(3, preprocessing.input_size, preprocessing.input_size),
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        normalize=False,
    )
    return transform(image.convert("RGB")).permute(1, 2, 0).numpy()


def apart(pixels, expected):
    return np.abs(pixels.astype(int) - expected.astype(int))


PHOTOS = [CHINA, CHINA.resize((333, 501)), FLOWER.resize((639, 481)), FLOWER.crop((7, 11, 238, 420))]


@pytest.mark.parametrize("preprocessing", [LITE0, RESNET, SQUASH], ids=["lite0", "resnet", "squash"])
@pytest.mark.parametrize("photo", PHOTOS, ids=["640x427", "333x501", "639x481", "231x409"])
def test_pixels_are_those_of_timms_transform(photo, preprocessing):
    """Without libjpeg's scaling only Pillow's roundings differ, a hair's breadth."""
    difference = apart(decoded(encoded(photo, "PNG"), preprocessing).pixels, by_timm(photo, preprocessing))

    assert difference.max() <= 3
    assert difference.mean() < 0.2


@pytest.mark.parametrize("size", [(1601, 1203), (1203, 1601), (2047, 901), (3001, 1999)])
def test_a_large_jpeg_is_scaled_while_decoding_with_hardly_a_difference(size):
    data = encoded(CHINA.resize(size, Image.Resampling.BICUBIC), quality=90)

    pixels = decoded(data, LITE0).pixels

    assert apart(pixels, by_timm(Image.open(BytesIO(data)), LITE0)).mean() < 1.5


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("size", [(637, 425), (1601, 1203)], ids=["whole", "scaled"])
def test_exif_orientation_is_applied(number, size):
    """All eight orientations, on a size that libjpeg scales too, with odd sides so that rounding shows."""
    data = encoded(CHINA.resize(size), quality=95, exif=oriented(number))
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))

    image = decoded(data, LITE0)

    assert (image.width, image.height) == upright.size
    assert apart(image.pixels, by_timm(upright, LITE0)).mean() < (1.5 if size[0] > 1000 else 0.3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_orientation_is_applied_to_every_type(kind):
    image = decoded(encoded(CHINA, kind, exif=oriented(6), lossless=True))

    assert (image.width, image.height) == (427, 640)
    assert apart(image.pixels, by_timm(CHINA.transpose(Image.Transpose.ROTATE_270), SMALL)).max() <= 1


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", oriented(9), oriented(0), b"nonsense"],
    ids=["empty", "no-directory", "directory-past-the-end", "nine", "zero", "no-tiff"],
)
def test_damaged_exif_leaves_the_image_as_stored(exif):
    assert decoded(encoded(CHINA, exif=exif)).width == 640


@pytest.mark.parametrize(
    ("kind", "media_type"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")]
)
def test_the_media_type_is_that_of_the_bytes(kind, media_type):
    image = decoded(encoded(CHINA, kind))

    assert image.media_type == media_type
    assert (image.width, image.height) == (640, 427)
    assert image.pixels.shape == (32, 32, 3)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    assert image.pixels.flags.writeable, "torch warns of memory that it may not write to"


def test_grey_networks_get_one_channel():
    pixels = decoded(encoded(CHINA, "PNG"), GREY).pixels

    assert pixels.shape == (32, 32, 1)
    assert apart(pixels, by_timm(CHINA.convert("L"), SMALL)[..., :1]).max() <= 3


@pytest.mark.parametrize("preprocessing", [SMALL, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA"])
def test_every_png_mode_is_read(mode, preprocessing):
    image = CHINA.convert("L").convert(mode) if mode == "LA" else CHINA.convert(mode)

    pixels = decoded(encoded(image, "PNG"), preprocessing).pixels

    expected = by_timm(image.convert("RGB"), SMALL).mean(axis=2)
    assert apart(pixels.mean(axis=2), expected).mean() < 10


def test_16_bit_grey_is_scaled_to_8_bits():
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)

    pixels = decoded(encoded(Image.fromarray(values), "PNG")).pixels

    assert pixels[0].max() < 10
    assert pixels[-1].min() > 245
    assert 126 <= pixels.mean() <= 129


def test_16_bit_grey_may_name_a_transparent_value():
    image = Image.fromarray(np.full((40, 40), 300, np.uint16))

    assert (decoded(encoded(image, "PNG", transparency=300)).pixels == 255).all()
    assert (decoded(encoded(image, "PNG", transparency=301)).pixels == 1).all()


@pytest.mark.parametrize("colour_type", [2, 4, 6], ids=["rgb", "grey-alpha", "rgba"])
def test_16_bit_colour_is_read(colour_type):
    """Pillow can't write these, so the file is put together here: every sample is 0xffff, which is white."""
    samples = {2: 3, 4: 2, 6: 4}[colour_type]
    rows = b"".join(b"\0" + b"\xff\xff" * samples * 4 for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )

    assert decoded(data).pixels.min() == 255


@pytest.mark.parametrize("size", [(640, 427), (1601, 1203)])
def test_cmyk_jpegs_are_read(size):
    photo = CHINA.resize(size)

    pixels = decoded(encoded(photo.convert("CMYK"), quality=95)).pixels

    assert apart(pixels, by_timm(photo, SMALL)).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_flattened_on_white(kind):
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))

    assert (decoded(encoded(image, kind, lossless=True)).pixels == 255).all()


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_transparent_colour_is_flattened_on_white(mode):
    """Not an alpha channel, but a chunk that names one see-through value."""
    image = Image.new(mode, (40, 40), 0)
    transparency = (0, 0, 0) if mode == "RGB" else 0

    assert (decoded(encoded(image, "PNG", transparency=transparency)).pixels == 255).all()


def test_a_palette_with_partial_transparency_is_blended():
    image = Image.new("P", (40, 40), 0)
    image.putpalette([0, 0, 0])

    assert 126 <= decoded(encoded(image, "PNG", transparency=bytes([128]))).pixels.mean() <= 128


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind):
    red, blue = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))

    data = encoded(red, kind, save_all=True, append_images=[blue], duration=100, lossless=True)

    assert (decoded(data).pixels == (255, 0, 0)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 65000)])
def test_extreme_shapes_are_read(size):
    assert (decoded(encoded(Image.new("RGB", size, "lime"), "PNG"), LITE0).pixels == (0, 255, 0)).all()


JPEG = encoded(CHINA)


@pytest.mark.parametrize(
    "data",
    [b"", JPEG[:40], JPEG[: len(JPEG) // 2], encoded(CHINA, "PNG")[:3000], encoded(CHINA, "WEBP")[:3000]],
    ids=["empty", "no-pixels", "half-a-jpeg", "half-a-png", "half-a-webp"],
)
def test_damaged_files_are_invalid(data):
    with pytest.raises(InvalidImage) as caught:
        decoded(data)

    assert type(caught.value) is InvalidImage


@pytest.mark.parametrize(
    "data",
    [
        b"just words in a file named cat.jpg",
        b"GIF89a",
        encoded(CHINA, "GIF", save_all=True, append_images=[FLOWER]),
        encoded(CHINA, "BMP"),
        encoded(CHINA, "TIFF"),
        b"%PDF-1.7",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    ],
    ids=["text", "gif-signature", "animated-gif", "bmp", "tiff", "pdf", "svg"],
)
def test_other_types_are_unsupported(data):
    with pytest.raises(UnsupportedImage):
        decoded(data)


def bomb(side):
    """A few kilobytes that claim side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((side // 8 + 2) * 64))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    )


@pytest.mark.parametrize("side", [8_000, 100_000])
def test_a_bomb_is_refused_by_its_header(side):
    with pytest.raises(ImageTooLarge, match=f"{side**2} pixels"):
        decoded(bomb(side))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_pixel_cap_is_exact(kind):
    data = encoded(CHINA, kind)

    assert decoded(data, max_pixels=640 * 427).width == 640
    with pytest.raises(ImageTooLarge):
        decoded(data, max_pixels=640 * 427 - 1)


def test_a_webp_that_claims_a_huge_canvas_is_refused():
    canvas = (16384 - 1).to_bytes(3, "little")
    data = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas * 2

    with pytest.raises(ImageTooLarge, match="268435456 pixels"):
        decoded(data)


THUMBNAIL = CHINA.resize((48, 36))
FILES = [
    encoded(THUMBNAIL, exif=oriented(6)),
    encoded(THUMBNAIL.convert("P"), "PNG"),
    encoded(THUMBNAIL, "PNG", exif=oriented(3)),
    encoded(THUMBNAIL, "WEBP"),
]


@settings(deadline=None)  # the machine may be busy
@given(st.sampled_from([b"", *(data[:16] for data in FILES)]), st.binary(max_size=400))
def test_random_bytes_are_never_more_than_an_invalid_image(signature, noise):
    with pytest.raises(InvalidImage):
        decoded(signature + noise)


@settings(deadline=None)
@given(st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
def test_a_flipped_byte_gives_pixels_or_an_invalid_image(data, changes):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(data)] = value

    try:
        image = decoded(bytes(damaged), max_pixels=100_000)
    except InvalidImage:
        return

    assert image.pixels.shape == (32, 32, 3)


def test_near_duplicates_have_near_hashes():
    same, other = (decoded(encoded(photo, quality=60), LITE0).pixels for photo in (CHINA, FLOWER))
    hashed = perceptual_hash(decoded(encoded(CHINA, "PNG"), LITE0).pixels)

    assert 0 <= hashed < 2**64
    assert (hashed ^ perceptual_hash(same)).bit_count() <= 4
    assert (hashed ^ perceptual_hash(other)).bit_count() > 10


def test_grey_pixels_have_a_hash():
    assert 0 <= perceptual_hash(decoded(JPEG, GREY).pixels) < 2**64
