"""Where each blob lies: built of ids and digests only, below its task, so that a task goes as one prefix."""

import secrets

from service.store.records import Task


def task_prefix(tenant: str, task_id: str) -> str:
    return f"tenants/{tenant}/tasks/{task_id}/"


def image_key(task: Task, digest: str) -> str:
    """A key of one upload's own.

    Were it the digest alone, a deletion could take the bytes away under another upload of the same image.
    So: whoever put a blob whose example wasn't `created` deletes that blob again.
    """
    return f"{task_prefix(task.tenant, task.id)}images/{digest}-{secrets.token_hex(6)}"


def head_key(task: Task, digest: str) -> str:
    return f"{task_prefix(task.tenant, task.id)}heads/{digest}.onnx"


def factors_key(task: Task, digest: str) -> str:
    return f"{task_prefix(task.tenant, task.id)}factors/{digest}.safetensors"


def predictions_key(task: Task, digest: str) -> str:
    return f"{task_prefix(task.tenant, task.id)}predictions/{digest}.npz"


def import_key(task: Task, run_id: str) -> str:
    """The archive of an import: it is put before its run (`NewRun.id`), which may be claimed at once."""
    return f"{task_prefix(task.tenant, task.id)}imports/{run_id}"
