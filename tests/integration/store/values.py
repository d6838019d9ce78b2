"""Small real values for the store's tests."""

from typing import Any

from service.store.records import NewExample, NewRun, NewVersion, Task

TENANT = "default"
BACKBONE = "b" * 64
OTHER_BACKBONE = "c" * 64


def digest(name: str) -> str:
    """A digest that tells in a failure which image it was."""
    return name.encode().hex().rjust(64, "0")


def new_example(name: str, labels: tuple[str, ...] | str | None = None, **changed: Any) -> NewExample:
    values: dict[str, Any] = {
        "image_digest": digest(name),
        "blob_key": f"images/{name}",
        "media_type": "image/png",
        "filename": f"{name}.png",
        "width": 640,
        "height": 480,
        "size": 12_345,
        "perceptual_hash": 2**64 - 1,
        "labels": (labels,) if isinstance(labels, str) else labels,
        "value": None,
        "group": None,
        "split": None,
    }
    return NewExample(**values | changed)


def new_run(task: Task, **changed: Any) -> NewRun:
    values: dict[str, Any] = {
        "task_id": task.id,
        "kind": "train",
        "strategy": "head",
        "options": {"seed": 0},
        "publish": "first",
        "backbone_digest": BACKBONE,
    }
    return NewRun(**values | changed)


def new_version(**changed: Any) -> NewVersion:
    values: dict[str, Any] = {
        "strategy": "head",
        "kind": "multiclass",
        "labels": ("cat", "dog"),
        "threshold": None,
        "options": {"seed": 0},
        "seed": 0,
        "data_revision": 1,
        "split_digest": "d" * 64,
        "evaluation": "test",
        "fitted_on": "train and validation",
        "metrics": {"primary": {"name": "accuracy", "value": 0.5}},
        "history": [{"strength": 1.0}],
        "decision": {"warnings": []},
        "backbone_digest": BACKBONE,
        "trainable_parameters": 75_813,
        "total_parameters": 23_583_845,
        "shares_backbone": True,
        "head_digest": "e" * 64,
        "head_key": "heads/e.onnx",
        "head_bytes": 51_200,
        "predictions_key": "predictions/e.npz",
    }
    return NewVersion(**values | changed)
