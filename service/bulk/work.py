"""What every actor is told."""

from dataclasses import dataclass
from pathlib import Path

from models.identity import BackboneConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Sent to other machines, so that it holds no open file and no client."""

    source: str  # URL
    destination: str  # URL
    backbone: BackboneConfig
    backbone_digest: str
    cache_dir: Path  # on the actor's machine
    decode_threads: int
    max_batch_size: int
    max_image_pixels: int
    max_image_bytes: int
