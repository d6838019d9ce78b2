"""A task's own whole network: torch eager fp32, timm's transform, the backbone's weights and one head.

What plain LitServe serves, and what each of the peers holds once a task.
"""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import timm.data
import torch
from PIL import Image

from models.backbone import PRE_LOGITS, build_backbone
from models.identity import BackboneConfig


class Network:
    """Photos in, labels out."""

    def __init__(self, backbone: str, head: Path, device: str = "cpu") -> None:
        """Args: head: an npz of `weight` (C, D), `bias` (C,) and `labels` (C,)."""
        built = build_backbone(BackboneConfig(name=backbone))
        self.device = device
        self.module = built.module.to(device).eval()
        self._pre_logits = built.features == PRE_LOGITS
        self._transform = timm.data.create_transform(
            input_size=(built.channels, built.input_size, built.input_size),
            interpolation=built.interpolation,
            mean=built.mean,
            std=built.std,
            crop_pct=built.crop_pct,
        )
        with np.load(head) as saved:
            self._weight = torch.from_numpy(saved["weight"]).to(device)
            self._bias = torch.from_numpy(saved["bias"]).to(device)
            self.labels: list[str] = saved["labels"].tolist()

    def pixels(self, photo: BinaryIO) -> Any:
        """A decoded and transformed photo, float32 (C, H, W)."""
        return self.transformed(Image.open(photo))

    def transformed(self, photo: Image.Image) -> Any:
        """Float32 (C, H, W)."""
        return self._transform(photo.convert("RGB"))

    def predict(self, photos: Any) -> Any:
        """(N, C, H, W) -> probabilities (N, classes)."""
        with torch.inference_mode():
            network: Any = self.module
            images = photos.to(self.device)
            if self._pre_logits:
                features = network.forward_head(network.forward_features(images), pre_logits=True)
            else:
                features = network(images)
            return torch.softmax(features @ self._weight.T + self._bias, dim=1)

    def best(self, probabilities: Any) -> dict[str, Any]:
        """Of one photo: (classes,) -> its label and score."""
        place = int(probabilities.argmax())
        return {"label": self.labels[place], "score": float(probabilities[place])}
