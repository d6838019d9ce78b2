"""How far near and far pictures are by the measures of `models.domain`: where its thresholds are from.

    python -m bench.domain [--packages FOLDER]

The pictures come from packages of Debian (fetched by apt-get into the folder, 0.3 GB, and unpacked there, not
installed), from scikit-learn and from elpv-dataset. Each group is judged as a task would be: by at most 80 of
its images, a seeded choice. Drawings are neither near nor far: their rows are for interest.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import platformdirs

from bench.domain_pictures import Group, fetch, groups
from models.arrays import UInt8Array
from models.backbone import build_backbone
from models.batch_norms import batch_norm_distance
from models.domain import (
    BATCH_NORM_THRESHOLD,
    ENTROPY_THRESHOLD,
    choose_rows,
    domain_of_batch_norms,
    domain_of_embeddings,
    read_classifier,
)
from models.graph import embed
from models.identity import BackboneConfig, Preprocessing
from models.prepare import prepare_backbone
from models.preprocess import decode_image

BATCH = 16  # images
CACHE = Path(platformdirs.user_cache_dir("polyhead-bench"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.domain", description=__doc__)
    parser.add_argument("--packages", type=Path, default=CACHE / "packages", help="folder to unpack them in")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="a timm name")
    parser.add_argument("--weights", type=Path, help="a local file")
    said = parser.parse_args()
    fetch(said.packages)
    config = BackboneConfig(name=said.backbone, weights=said.weights)
    prepared = prepare_backbone(config, CACHE / "backbones")
    classifier, backbone = read_classifier(prepared.onnx_path), build_backbone(config)
    print(f"| pictures | are | n | entropy | at or above {ENTROPY_THRESHOLD:g} | batch norms |", end="")
    print(f" at or above {BATCH_NORM_THRESHOLD:g} |\n|---|---|---|---|---|---|---|")
    for group in groups(said.packages):
        pixels = pixels_of(group, prepared.identity.preprocessing)
        batches = [embed(backbone, pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
        by_entropy = domain_of_embeddings(np.concatenate(batches), classifier)
        by_norms = domain_of_batch_norms(batch_norm_distance(backbone, pixels), len(pixels))
        cells = [
            cell
            for said_of in (by_entropy, by_norms)
            for cell in ("-" if said_of.value is None else f"{said_of.value:.2f}", said_of.domain)
        ]
        print(f"| {group.name} | {group.kind} | {len(pixels)} | {' | '.join(cells)} |", flush=True)
    return 0


def pixels_of(group: Group, preprocessing: Preprocessing) -> UInt8Array:
    """(N, H, W, C) uint8 of those that are looked at."""
    chosen = [group.images[row] for row in choose_rows(len(group.images), seed=0)]
    return np.stack([decode_image(data, preprocessing, max_pixels=2**24).pixels for data in chosen])


if __name__ == "__main__":
    sys.exit(main())
