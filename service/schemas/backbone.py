"""The body of the backbone."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from models.identity import BackboneIdentity, Preprocessing, Stage


class BackboneBody(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "efficientnet_lite0",
                    "digest": "5be1…",
                    "weights_digest": "77aa…",
                    "licence": "Apache-2.0",
                    "embedding_dim": 1280,
                    "features": "pre-logits",
                    "input_size": 224,
                    "channels": 3,
                    "preprocessing": {
                        "input_size": 224,
                        "channels": 3,
                        "mean": [0.5, 0.5, 0.5],
                        "std": [0.5, 0.5, 0.5],
                        "interpolation": "bicubic",
                        "crop_pct": 0.875,
                        "crop_mode": "center",
                    },
                    "stages": [{"name": "blocks.6", "shape": [320, 7, 7]}],
                    "precision": "fp32",
                    "runtime": "openvino",
                    "total_parameters": 3371024,
                    "file": "/v1/backbone/backbone.onnx",
                }
            ]
        }
    )

    name: str
    digest: str = Field(description="Heads fitted on this digest run on every server that has it.")
    weights_digest: str
    licence: str
    embedding_dim: int
    features: str
    input_size: int = Field(description="Pixels; inputs are square.")
    channels: int
    preprocessing: Preprocessing
    stages: list[Stage]
    precision: str
    runtime: str
    total_parameters: int
    file: str

    @classmethod
    def of(cls, identity: BackboneIdentity, *, runtime: str) -> "BackboneBody":
        said: dict[str, Any] = {
            name: getattr(identity, name) for name in cls.model_fields if hasattr(identity, name)
        }
        return cls(
            **said,
            input_size=identity.preprocessing.input_size,
            channels=identity.preprocessing.channels,
            runtime=runtime,
            file="/v1/backbone/backbone.onnx",
        )
