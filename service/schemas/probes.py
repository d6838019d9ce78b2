"""Bodies of the probes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Health(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "degraded": []}]})

    status: Literal["ok", "degraded"]
    degraded: list[Literal["store"]] = []
