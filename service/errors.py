"""The service's own errors, and the one table that maps every error to its status and code.

The errors don't know HTTP; `PROBLEMS` does. A test asserts that the table covers every subclass.
"""

from dataclasses import dataclass

from models import errors as models
from models.errors import PolyheadError


class Unauthenticated(PolyheadError):
    """It isn't known who asks."""


class KeyNeeded(Unauthenticated):
    def __init__(self) -> None:
        super().__init__("an API key is needed: send Authorization: Bearer <key>, or X-API-Key: <key>")


class InvalidKey(Unauthenticated):
    def __init__(self) -> None:
        super().__init__("the API key is not valid: it was revoked, or never was one")


class MissingScope(PolyheadError):
    def __init__(self, scope: str) -> None:
        self.scope = scope
        super().__init__(f"the API key lacks the scope {scope!r}")


class QuotaExceeded(PolyheadError):
    def __init__(self, what: str, limit: int) -> None:
        super().__init__(
            f"the tenant's quota of {limit} {what} doesn't allow more: delete some, or ask the operator"
        )


class RateLimited(PolyheadError):
    def __init__(self, per_minute: int, *, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"the API key may ask {per_minute} times a minute: wait as Retry-After says")


class TooManyRuns(PolyheadError):
    retry_after_s = 5

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} runs of the tenant are queued or running, as many as it may have: try later"
        )


class NotFound(PolyheadError):
    """A resource that isn't there, or isn't this tenant's."""


class UnknownTask(NotFound):
    def __init__(self, task: str) -> None:
        super().__init__(f"there is no task {task!r}")


class UnknownExample(NotFound):
    def __init__(self, example: str) -> None:
        super().__init__(f"the task has no example {example!r}")


class UnknownRun(NotFound):
    def __init__(self, run: str) -> None:
        super().__init__(f"there is no run {run!r}")


class UnknownVersion(NotFound):
    def __init__(self, task: str, version: int) -> None:
        super().__init__(f"task {task!r} has no version {version}")


class NoFactors(NotFound):
    def __init__(self, task: str, version: int) -> None:
        super().__init__(f"version {version} of {task!r} has no factors: only strategy lora trains them")


class UnknownAlias(NotFound):
    def __init__(self, task: str, alias: str) -> None:
        super().__init__(f"task {task!r} has no alias {alias!r}")


class UnknownKey(NotFound):
    def __init__(self, key: str) -> None:
        super().__init__(f"there is no API key {key!r}")


class UnknownBlob(NotFound):
    def __init__(self, key: str) -> None:
        super().__init__(f"the store holds nothing at {key!r}")


class Conflict(PolyheadError):
    """The request is well formed, the state is not."""


class TaskExists(Conflict):
    def __init__(self, task: str) -> None:
        super().__init__(f"there is a task {task!r} already")


class NothingPublished(Conflict):
    def __init__(self, task: str, alias: str) -> None:
        super().__init__(f"task {task!r} has no version behind {alias!r} yet: train it, or publish a version")


class RunActive(Conflict):
    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__(f"run {run} of this task is queued or running: wait for it, or cancel it")


class RunEnded(Conflict):
    def __init__(self, run: str, state: str) -> None:
        super().__init__(f"run {run} has {state} already")


class ClassInUse(Conflict):
    def __init__(self, label: str, examples: int) -> None:
        super().__init__(f"class {label!r} has {examples} examples: relabel or delete them first")


class OwnsNetwork(Conflict):
    def __init__(self, task: str, version: int) -> None:
        super().__init__(f"version {version} of {task!r} owns its network: download model.onnx")


class RequestInProgress(Conflict):
    def __init__(self) -> None:
        super().__init__("a request with this Idempotency-Key is still being answered: try again shortly")


class LabelConflict(Conflict):
    def __init__(self, example: str) -> None:
        self.example = example
        super().__init__(
            f"the same image is example {example} with another label, which stays: PATCH it to relabel"
        )


class StaleETag(PolyheadError):
    def __init__(self) -> None:
        super().__init__("the resource has changed since the ETag in If-Match was read: read it again")


class MalformedRequest(PolyheadError):
    """A body or header that can't be parsed."""


class InvalidField(PolyheadError):
    """A well-formed body with a value that can't be used; `pointer` is its JSON pointer."""

    def __init__(self, detail: str, *, pointer: str = "") -> None:
        self.pointer = pointer
        super().__init__(detail)


class UnknownLabel(InvalidField):
    def __init__(self, label: str) -> None:
        super().__init__(f"the task's classes are closed and {label!r} is none of them", pointer="/label")


class StrategyNotAvailable(InvalidField):
    def __init__(self, strategy: str, *, package: str) -> None:
        super().__init__(
            f"strategy {strategy} needs the package {package} on the server: "
            f"pip install 'polyhead[{strategy}]'",
            pointer="/strategy",
        )


class IdempotencyKeyReused(PolyheadError):
    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used within 24 hours with another request")


class BodyTooLarge(PolyheadError):
    def __init__(self, *, limit: int) -> None:
        super().__init__(f"the request is larger than the {limit} bytes allowed")


class TooManyImages(PolyheadError):
    def __init__(self, *, limit: int) -> None:
        super().__init__(f"the request has more than the {limit} images allowed")


class TooManyValues(PolyheadError):
    """A JSON body of so many values that reading them would take a server's memory."""

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"the JSON body has more than the {limit} values allowed")


class UnsupportedContentType(PolyheadError):
    def __init__(self, content_type: str) -> None:
        super().__init__(
            f"a body of type {content_type!r} is not read here: Content-Type must say what it is, "
            "for JSON application/json"
        )


class InvalidArchive(PolyheadError):
    """An archive that can't be read, or is hostile."""


class Overloaded(PolyheadError):
    def __init__(self, *, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__("the server has all the work it can hold: try again shortly")


class NotReady(PolyheadError):
    """This process, or something it needs, can't answer now."""


class StoreUnavailable(NotReady):
    def __init__(self) -> None:
        super().__init__("the store can't be reached")


class StoreFull(NotReady):
    def __init__(self) -> None:
        super().__init__("the store has no space left; nothing was changed")


class StillLoading(NotReady):
    def __init__(self) -> None:
        super().__init__("what the version needs is still being loaded from the store: try again shortly")


class WorkerFailed(NotReady):
    def __init__(self) -> None:
        super().__init__("the inference worker stopped while it had this request: try again")


class DeadlineExceeded(PolyheadError):
    def __init__(self, *, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} seconds")


class LostLease(PolyheadError):
    """The run is no longer this trainer's: another has it, it ended, or its task was deleted."""

    def __init__(self, run: str) -> None:
        super().__init__(f"run {run} is no longer held by this trainer")


class RunFailed(PolyheadError):
    """A run that ended for a reason outside its data; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """How one error type appears on the wire."""

    status: int
    code: str  # stable: clients may match on it
    title: str


def _problem(status: int, code: str, title: str) -> Problem:
    return Problem(status=status, code=code, title=title)


PROBLEMS: dict[type[PolyheadError], Problem] = {
    PolyheadError: _problem(500, "internal_error", "Internal error"),
    MalformedRequest: _problem(400, "malformed_request", "Malformed request"),
    Unauthenticated: _problem(401, "unauthenticated", "Unauthenticated"),
    KeyNeeded: _problem(401, "key_needed", "Key needed"),
    InvalidKey: _problem(401, "invalid_key", "Invalid key"),
    MissingScope: _problem(403, "missing_scope", "Missing scope"),
    QuotaExceeded: _problem(403, "quota_exceeded", "Quota exceeded"),
    NotFound: _problem(404, "not_found", "Not found"),
    UnknownTask: _problem(404, "unknown_task", "Unknown task"),
    UnknownExample: _problem(404, "unknown_example", "Unknown example"),
    UnknownRun: _problem(404, "unknown_run", "Unknown run"),
    UnknownVersion: _problem(404, "unknown_version", "Unknown version"),
    NoFactors: _problem(404, "no_factors", "No factors"),
    UnknownAlias: _problem(404, "unknown_alias", "Unknown alias"),
    UnknownKey: _problem(404, "unknown_key", "Unknown key"),
    UnknownBlob: _problem(404, "unknown_blob", "Unknown blob"),
    Conflict: _problem(409, "conflict", "Conflict"),
    TaskExists: _problem(409, "task_exists", "Task exists"),
    NothingPublished: _problem(409, "nothing_published", "Nothing published"),
    RunActive: _problem(409, "run_active", "A run is active"),
    RunEnded: _problem(409, "run_ended", "The run has ended"),
    ClassInUse: _problem(409, "class_in_use", "Class in use"),
    OwnsNetwork: _problem(409, "owns_network", "Version owns its network"),
    RequestInProgress: _problem(409, "request_in_progress", "Request in progress"),
    LabelConflict: _problem(409, "label_conflict", "Label conflict"),
    LostLease: _problem(409, "lost_lease", "Lost lease"),
    models.BackboneMismatch: _problem(409, "backbone_mismatch", "Head of another backbone"),
    StaleETag: _problem(412, "stale_etag", "Stale ETag"),
    BodyTooLarge: _problem(413, "body_too_large", "Body too large"),
    TooManyImages: _problem(413, "too_many_images", "Too many images"),
    TooManyValues: _problem(413, "too_many_values", "Too many values"),
    models.ImageTooLarge: _problem(413, "image_too_large", "Image too large"),
    UnsupportedContentType: _problem(415, "unsupported_content_type", "Unsupported content type"),
    models.UnsupportedImage: _problem(415, "unsupported_image", "Unsupported image type"),
    models.InvalidImage: _problem(422, "invalid_image", "Invalid image"),
    InvalidField: _problem(422, "invalid_field", "Invalid field"),
    UnknownLabel: _problem(422, "unknown_label", "Unknown label"),
    StrategyNotAvailable: _problem(422, "strategy_not_available", "Strategy not available"),
    IdempotencyKeyReused: _problem(422, "idempotency_key_reused", "Idempotency key reused"),
    InvalidArchive: _problem(422, "invalid_archive", "Invalid archive"),
    models.InvalidOption: _problem(422, "invalid_option", "Invalid option"),
    models.NoTail: _problem(422, "no_tail", "The backbone has no tail to train"),
    models.UntrainableData: _problem(422, "untrainable_data", "Not trainable yet"),
    Overloaded: _problem(429, "overloaded", "Overloaded"),
    RateLimited: _problem(429, "rate_limited", "Rate limited"),
    TooManyRuns: _problem(429, "too_many_runs", "Too many runs"),
    models.BackboneError: _problem(500, "backbone_error", "Backbone error"),
    models.DeviceLost: _problem(500, "device_lost", "Device lost"),
    models.ReferenceMismatch: _problem(500, "reference_mismatch", "Reference mismatch"),
    models.InvalidHead: _problem(500, "invalid_head", "Invalid head"),
    models.ExportError: _problem(500, "export_error", "Export error"),
    RunFailed: _problem(500, "run_failed", "Run failed"),
    NotReady: _problem(503, "not_ready", "Not ready"),
    StoreUnavailable: _problem(503, "store_unavailable", "Store unavailable"),
    StoreFull: _problem(503, "store_full", "Store full"),
    StillLoading: _problem(503, "still_loading", "Still loading"),
    WorkerFailed: _problem(503, "worker_failed", "Inference worker failed"),
    DeadlineExceeded: _problem(504, "deadline_exceeded", "Deadline exceeded"),
}


def problem_of(error: PolyheadError) -> Problem:
    """The wire form of an error: its own row, or that of its nearest ancestor."""
    return next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)
