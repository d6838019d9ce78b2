"""Bodies of predictions."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.images import PIXEL, WithImages
from service.schemas.problems import Problem

MAX_TASKS = 256  # of one fan-out
MAX_TASK_CHARACTERS = 127  # a name, @, an alias: each is named in the answer


class PredictBody(WithImages):
    model_config = ConfigDict(json_schema_extra={"examples": [{"input": [PIXEL]}]})


class FanOutBody(WithImages):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"tasks": ["chairs", "damage@candidate", "price@3"], "input": PIXEL}]
        },
    )

    tasks: list[Annotated[str, Field(max_length=MAX_TASK_CHARACTERS)]] = Field(
        min_length=1, max_length=MAX_TASKS, description="`name`, `name@alias` or `name@version`."
    )


class Score(BaseModel):
    label: str
    score: float


class Prediction(BaseModel):
    """One image's; which fields there are depends on the task's kind. A failed image has `error` alone."""

    index: int
    label: str | None = Field(default=None, description="Multiclass: the best; null below the threshold.")
    score: float | None = Field(default=None, description="Multiclass: of the best label.")
    labels: list[str] | None = Field(default=None, description="Multilabel: those at or above the threshold.")
    scores: list[Score] | None = Field(default=None, description="Best first.")
    value: float | None = Field(default=None, description="Regression.")
    error: Problem | None = None


class Predictions(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "pred_5f0c3d",
                    "task": "chairs",
                    "version": 2,
                    "predictions": [
                        {
                            "index": 0,
                            "label": "armchair",
                            "score": 0.97,
                            "scores": [
                                {"label": "armchair", "score": 0.97},
                                {"label": "stool", "score": 0.03},
                            ],
                        }
                    ],
                }
            ]
        }
    )

    id: str
    task: str
    version: int
    predictions: list[Prediction]


class FanOutResult(BaseModel):
    task: str = Field(description="As it was asked for.")
    version: int | None = None
    predictions: list[Prediction] | None = None
    error: Problem | None = None


class FanOutPredictions(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "pred_5f0c3d",
                    "results": [
                        {
                            "task": "chairs",
                            "version": 2,
                            "predictions": [
                                {
                                    "index": 0,
                                    "label": "armchair",
                                    "score": 0.97,
                                    "scores": [{"label": "armchair", "score": 0.97}],
                                }
                            ],
                        },
                        {"task": "price@3", "version": 3, "predictions": [{"index": 0, "value": 129.5}]},
                    ],
                }
            ]
        }
    )

    id: str
    results: list[FanOutResult]
