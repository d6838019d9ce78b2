"""Images that ship with the package, and what the default backbone makes of them.

Drawn and recorded by `python -m models.reference`; see there. Start-up embeds them, to catch weights, a
decoder or a runtime that computes something else than before.
"""

from importlib.resources import files
from io import BytesIO

import numpy as np

from models.arrays import FloatArray, UInt8Array
from models.identity import Preprocessing
from models.preprocess import decode_image

# Sizes and types that decode by different paths: scaled by libjpeg, turned by EXIF, see-through, odd, grey.
IMAGES = ("discs.jpg", "turned.jpg", "large.jpg", "grid.png", "glass.webp")
RECORDED = ("efficientnet_lite0",)


def reference_pixels(preprocessing: Preprocessing) -> UInt8Array:
    """The images as a backbone's input: (N, H, W, C) uint8, in the order of IMAGES."""
    images = (files(__name__).joinpath(name).read_bytes() for name in IMAGES)
    return np.stack([decode_image(data, preprocessing, max_pixels=2**22).pixels for data in images])


def recorded_embeddings(name: str) -> FloatArray:
    """(N, D) float32 that torch gave at fp32 for a backbone in RECORDED with the weights of its package."""
    data = files(__name__).joinpath(f"{name}.npy").read_bytes()
    embeddings: FloatArray = np.load(BytesIO(data), allow_pickle=False)
    return embeddings
