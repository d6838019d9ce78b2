"""The rung above the head, on real photos and real weights: cells of solar panels, defective or not."""

from pathlib import Path

import elpv_dataset
import numpy as np
import pytest
import torch
from PIL import Image

from models.backbone import build_backbone
from models.dataset import Dataset
from models.graph import PixelGraph
from models.identity import BackboneConfig
from models.preprocess import perceptual_hash
from models.strategies.finish import fit
from models.strategies.head import fit_head
from models.strategies.last_block import last_block
from models.strategies.options import HeadOptions, LastBlockOptions
from models.tail import split_at
from models.views import flipped, views_of

DATA = Path(elpv_dataset.__file__).parent / "data"
SIZE = 128  # pixels; less than the weights' own, for speed
COUNTS = {"train": 300, "validation": 100, "test": 300}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cells():
    """(N, SIZE, SIZE, 3) uint8, and 1 where a cell is more likely defective than not."""
    rows = [line.split() for line in (DATA / "labels.csv").read_text().splitlines()]
    chosen = [rows[row] for row in np.random.default_rng(0).permutation(len(rows))[: sum(COUNTS.values())]]
    pixels = np.stack([np.asarray(Image.open(DATA / row[0]).resize((SIZE, SIZE))) for row in chosen])
    return pixels[..., None].repeat(3, axis=3), np.array([float(row[1]) >= 0.5 for row in chosen], np.int64)


def run_trunk(backbone, pixels, stage, views):
    """Embeddings (N, D) of the images as they are, feature maps (N, V, …) float16 of all views."""
    graph, at = PixelGraph(backbone).eval(), 1 + backbone.stages.index(stage)
    embeddings, maps = [], []
    with torch.inference_mode():
        for view in views:
            outputs = [graph(torch.from_numpy(part)) for part in np.array_split(flipped(pixels, view), 20)]
            embeddings.append(np.concatenate([each[0].numpy() for each in outputs]))
            maps.append(np.concatenate([each[at].half().numpy() for each in outputs]))
    return embeddings[0], np.stack(maps, axis=1)


@pytest.mark.usefixtures("one_thread")
def test_the_last_block_is_no_worse_than_the_head_on_a_distant_domain():
    backbone = build_backbone(BackboneConfig(name="efficientnet_lite0", input_size=SIZE))
    pixels, targets = cells()
    split = split_at(backbone, 1)
    embeddings, maps = run_trunk(backbone, pixels, split.stage, views_of("light"))
    count = len(pixels)
    dataset = Dataset(
        kind="multiclass",
        labels=("sound", "defective"),
        ids=tuple(f"ex_{row}" for row in range(count)),
        embeddings=embeddings,
        targets=targets,
        groups=(None,) * count,
        hashes=np.array([perceptual_hash(each) for each in pixels], dtype=np.uint64),
        splits=tuple(name for name, size in COUNTS.items() for _ in range(size)),
        split_by_user=(True,) * count,
    )
    total = sum(each.numel() for each in backbone.module.parameters())
    silent = {"report": lambda _: None, "total_backbone_parameters": total}
    head = fit_head(dataset, HeadOptions(), **silent)
    recipe = last_block(dataset, maps, split, LastBlockOptions(epochs=8), total_backbone_parameters=total)
    tuned = fit(recipe, report=lambda _: None)

    # machines round differently, and 300 answers have a standard error of 2.4 points
    assert tuned.fit.metrics["accuracy"] >= head.metrics["accuracy"] - 0.02
    assert tuned.fit.metrics["accuracy"] > 0.72
