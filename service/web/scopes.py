"""Which scope each operation needs. A new route has no row, so that no key opens it until it gets one.

A scope includes those before it: whoever may train may predict, whoever may administer may train. `metrics`
stands apart, since what it shows is of all tenants.
"""

from collections.abc import Collection

from service.store.records import Scope

PROBES = frozenset({"live", "ready"})  # any key will do, where they aren't open anyway
INCLUDES: dict[Scope, tuple[Scope, ...]] = {
    "predict": ("predict",),
    "train": ("train", "predict"),
    "admin": ("admin", "train", "predict"),
    "metrics": ("metrics",),
}
NEEDED: dict[str, Scope] = {
    # Answers, and what has to be known to ask for them.
    "predict": "predict",
    "predict_many": "predict",
    "create_embeddings": "predict",
    "get_backbone": "predict",
    "list_tasks": "predict",
    "get_task": "predict",
    "list_aliases": "predict",
    "get_alias": "predict",
    # Teaching, the images and the evidence, publishing, and taking files away.
    "create_task": "train",
    "update_task": "train",
    "add_examples": "train",
    "list_examples": "train",
    "get_example": "train",
    "update_example": "train",
    "delete_example": "train",
    "get_example_image": "train",
    "create_run": "train",
    "list_task_runs": "train",
    "list_runs": "train",
    "get_run": "train",
    "list_run_results": "train",
    "cancel_run": "train",
    "stream_run_events": "train",
    "list_versions": "train",
    "get_version": "train",
    "list_mistakes": "train",
    "put_alias": "train",
    "delete_alias": "train",
    "download_head": "train",
    "download_model": "train",
    "download_factors": "train",
    "download_backbone": "train",
    # What takes everything of a task away, for good.
    "delete_task": "admin",
    # Of all tenants together.
    "metrics": "metrics",
}


def missing(operation: str | None, held: Collection[Scope]) -> Scope | None:
    """The scope that is lacked to call an operation, None if nothing is.

    Args: operation: its id; None: there is no such path, which any key may be told.
    """
    if operation is None or operation in PROBES:
        return None
    needed = NEEDED.get(operation, "admin")
    return None if any(needed in INCLUDES[scope] for scope in held) else needed
