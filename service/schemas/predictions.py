"""Bodies of predictions."""

from typing import Annotated, Required

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

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


# What is answered most is made of plain dictionaries: a model for each score costs more than finding it.
class Score(TypedDict):
    label: str
    score: float


class Prediction(TypedDict, total=False):
    """One image's; which fields there are depends on the task's kind. A failed image has `error` alone."""

    index: Required[int]
    label: Annotated[str | None, Field(description="Multiclass: the best; null below the threshold.")]
    score: Annotated[float, Field(description="Multiclass: of the best label.")]
    labels: Annotated[list[str], Field(description="Multilabel: those at or above the threshold.")]
    scores: Annotated[list[Score], Field(description="Best first.")]
    value: Annotated[float, Field(description="Regression.")]
    error: Problem


@with_config(
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
class Predictions(TypedDict):
    id: str
    task: str
    version: int
    predictions: list[Prediction]


class FanOutResult(TypedDict, total=False):
    task: Required[Annotated[str, Field(description="As it was asked for.")]]
    version: int
    predictions: list[Prediction]
    error: Problem


@with_config(
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
class FanOutPredictions(TypedDict):
    id: str
    results: list[FanOutResult]
