"""Where each blob lies: built of ids and digests only, below its task, so that a task goes as one prefix.

A key is used once. So a blob that no row names, and that is older than the longest run, never will be named.
Were it the digest alone, an upload or a run could find its bytes there already and lose them to the deletion
of another's. So: whoever put a blob that no row came to name deletes it again, or leaves it to a sweep.
"""

import re
import secrets

from service.store.records import Task


def task_prefix(tenant: str, task_id: str) -> str:
    return f"tenants/{tenant}/tasks/{task_id}/"


ALL_TASKS = "tenants/"
_OF_TASK = re.compile(r"(tenants/[^/]+/tasks/([^/]+)/).+")


def task_of_key(key: str) -> tuple[str, str] | None:
    """The prefix and the id of the task that a blob is of; None: it is no task's."""
    found = _OF_TASK.fullmatch(key)
    return None if found is None else (found[1], found[2])


def image_key(task: Task, digest: str) -> str:
    return f"{task_prefix(task.tenant, task.id)}images/{_once(digest)}"


def head_key(task: Task, digest: str) -> str:
    return f"{task_prefix(task.tenant, task.id)}heads/{_once(digest)}.onnx"


def factors_key(task: Task, digest: str) -> str:
    return f"{task_prefix(task.tenant, task.id)}factors/{_once(digest)}.safetensors"


def predictions_key(task: Task, digest: str) -> str:
    return f"{task_prefix(task.tenant, task.id)}predictions/{_once(digest)}.npz"


def import_key(task: Task, run_id: str) -> str:
    """The archive of an import: it is put before its run (`NewRun.id`), which may be claimed at once."""
    return f"{task_prefix(task.tenant, task.id)}imports/{run_id}"


def _once(digest: str) -> str:
    return f"{digest}-{secrets.token_hex(6)}"
