"""Plain LitServe: one LitAPI as its tutorials write it: torch eager fp32, timm's transform, its own batching.

The weights, the head and the declared preprocessing are the other contenders' own. With several heads it is a
peer: a LitAPI, and so a process with a whole network, for each task.
"""

import argparse
from pathlib import Path
from typing import Any

import litserve
import torch
from fastapi import Request, Response

from bench.network import Network


class ImageClassifier(litserve.LitAPI):  # type: ignore[misc]  # litserve has no types
    """A form with an image in, its label out."""

    def __init__(self, backbone: str, head: Path, batch: int, path: str) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=0.01, api_path=path)
        self.backbone_name = backbone
        self.head_file = head

    def setup(self, device: str) -> None:
        self.network = Network(self.backbone_name, self.head_file, device)

    def decode_request(self, request: Request) -> Any:
        return self.network.pixels(request["file"].file)

    def batch(self, inputs: list[Any]) -> Any:
        return torch.stack(inputs)

    def predict(self, x: Any) -> Any:
        return self.network.predict(x)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> Response:
        return self.network.best(output)  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--head", type=Path, required=True, action="append", help="of a task, in their order")
    parser.add_argument("--batch", type=int, required=True)
    said = parser.parse_args()
    apis = [
        ImageClassifier(said.backbone, head, said.batch, f"/predict/{number}")
        for number, head in enumerate(said.head)
    ]
    server = litserve.LitServer(apis, accelerator="auto")
    server.run(host="127.0.0.1", port=said.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
