"""The reference of training: timm's network with a new head, every layer trained, on the same photos.

As timm's and fastai's guides have it: cross-entropy, AdamW, a cosine schedule, random crops and flips, fp32.
"""

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import timm.data
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from bench.photos import OpenPhotos, Photos
from bench.processes import answer, orders
from models.backbone import PRE_LOGITS, Backbone, build_backbone
from models.identity import BackboneConfig

BATCH = 32
LEARNING_RATE = 1e-3


class Labelled(Dataset[Any]):
    """Photo i is of class i modulo their number."""

    def __init__(self, photos: OpenPhotos, count: int, classes: int, transform: Any) -> None:
        self.photos, self.count, self.classes, self.transform = photos, count, classes, transform

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        image = Image.open(BytesIO(self.photos[index])).convert("RGB")
        return self.transform(image), index % self.classes


class Classifier(nn.Module):
    """The backbone, thawed, and a new head."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone, self.network = backbone, backbone.module
        size = backbone.channels, backbone.input_size, backbone.input_size
        with torch.inference_mode():
            width = self.embed(torch.zeros(1, *size)).shape[1]
        self.network.requires_grad_(True).train()
        self.head = nn.Linear(width, classes)

    def embed(self, images: Any) -> Any:
        network: Any = self.network
        if self.backbone.features == PRE_LOGITS:
            return network.forward_head(network.forward_features(images), pre_logits=True)
        return network(images)

    def forward(self, images: Any) -> Any:
        return self.head(self.embed(images))  # (B, D) -> (B, C)


def finetune(backbone: str, photos: str, count: int, classes: int, epochs: int) -> dict[str, float]:
    """Train, and say how long it took: seconds from the first batch to the end of the last epoch."""
    torch.manual_seed(0)
    said = build_backbone(BackboneConfig(name=backbone))
    model = Classifier(said, classes)
    transform = timm.data.create_transform(
        input_size=(said.channels, said.input_size, said.input_size), is_training=True,
        interpolation=said.interpolation, mean=said.mean, std=said.std,
    )  # fmt: skip
    data = Labelled(Photos(Path(photos), 0, "").open(), count, classes, transform)
    loader = DataLoader(data, batch_size=min(BATCH, count), shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    began = time.monotonic()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    seconds = time.monotonic() - began
    return {"seconds": seconds, "images_s": epochs * count / seconds}


def main() -> None:
    for said in orders():
        answer(**finetune(**said))


if __name__ == "__main__":
    main()
