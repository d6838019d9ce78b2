"""Plain LitServe: one LitAPI as its tutorials write it: torch eager fp32, timm's transform, its own batching.

The weights, the head and the declared preprocessing are the other contenders' own.
"""

import argparse
from typing import Any

import litserve
import numpy as np
import timm.data
import torch
from fastapi import Request, Response
from PIL import Image

from models.backbone import PRE_LOGITS, build_backbone
from models.identity import BackboneConfig


class ImageClassifier(litserve.LitAPI):  # type: ignore[misc]  # litserve has no types
    """A form with an image in, its label out."""

    def __init__(self, backbone: str, head: str, batch: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=0.01)
        self.backbone_name = backbone
        self.head_file = head

    def setup(self, device: str) -> None:
        backbone = build_backbone(BackboneConfig(name=self.backbone_name))
        self.device = device
        self.network = backbone.module.to(device).eval()
        self.pre_logits = backbone.features == PRE_LOGITS
        self.transform = timm.data.create_transform(
            input_size=(backbone.channels, backbone.input_size, backbone.input_size),
            interpolation=backbone.interpolation,
            mean=backbone.mean,
            std=backbone.std,
            crop_pct=backbone.crop_pct,
        )
        with np.load(self.head_file) as head:
            self.weight = torch.from_numpy(head["weight"]).to(device)
            self.bias = torch.from_numpy(head["bias"]).to(device)
            self.labels = head["labels"].tolist()

    def decode_request(self, request: Request) -> Any:
        image = Image.open(request["file"].file).convert("RGB")
        return self.transform(image)

    def batch(self, inputs: list[Any]) -> Any:
        return torch.stack(inputs)

    def predict(self, x: Any) -> Any:
        with torch.inference_mode():
            images = x.to(self.device)
            if self.pre_logits:
                network: Any = self.network
                features = network.forward_head(network.forward_features(images), pre_logits=True)
            else:
                features = self.network(images)
            return torch.softmax(features @ self.weight.T + self.bias, dim=1)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> Response:
        best = int(output.argmax())
        return {"label": self.labels[best], "score": float(output[best])}  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--head", required=True)
    parser.add_argument("--batch", type=int, required=True)
    said = parser.parse_args()
    api = ImageClassifier(said.backbone, said.head, said.batch)
    server = litserve.LitServer(api, accelerator="auto")
    server.run(host="127.0.0.1", port=said.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
