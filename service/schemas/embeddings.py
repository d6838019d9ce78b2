"""Bodies of embeddings, in OpenAI's list shape."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.images import PIXEL, WithImages

EncodingFormat = Literal["float", "base64"]


class CreateEmbeddings(WithImages):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": [PIXEL], "encoding_format": "float"}]}
    )

    model: str | None = Field(default=None, description="The served backbone's name or digest, if given.")
    encoding_format: EncodingFormat = Field(
        default="float", description="`base64`: of little-endian float32, a quarter of the bytes."
    )
    normalize: bool = Field(default=False, description="To length 1.")
    dimensions: int | None = Field(default=None, description="The embedding's full size, if given.")
    user: str | None = Field(default=None, description="Not used; OpenAI's clients may send it.")


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int = 0
    total_tokens: int = 0


class Embeddings(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.12, -0.03]}],
                    "model": "efficientnet_lite0",
                    "usage": {"prompt_tokens": 0, "total_tokens": 0},
                }
            ]
        }
    )

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage = Usage()
