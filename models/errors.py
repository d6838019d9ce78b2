"""The errors of `models`, each with its data and its own message.

PolyheadError
├── InvalidImage            bytes that are no image we can decode
│   ├── UnsupportedImage    an image, but of a type we don't read
│   └── ImageTooLarge       more pixels than the cap
├── BackboneError           the network can't be built, loaded or run
│   ├── ReferenceMismatch   start-up embeddings are off their recorded reference
│   ├── DeviceLost          its device takes no work of this process any more
│   └── NoTail              the network can't be split where a tail would begin
├── BackboneMismatch        a head fitted on another backbone's features
├── InvalidHead             a head file that is damaged or not ours
├── InvalidOption           a strategy's option that can't be used
├── UntrainableData         the labelled examples can't be learned from
└── ExportError             the exported file is not what was trained
"""

from typing import Any


class PolyheadError(Exception):
    """What went wrong, in words for the user who can act on it.

    Errors cross process borders as values, so they unpickle without their constructor, whose arguments
    are data rather than the message that `Exception` would pass it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (type(self), self.args, self.__dict__)


def _revived(kind: type["PolyheadError"], args: tuple[Any, ...], data: dict[str, Any]) -> "PolyheadError":
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(data)
    return error


class InvalidImage(PolyheadError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"the image can't be decoded: {reason}")


class UnsupportedImage(InvalidImage):
    def __init__(self) -> None:
        PolyheadError.__init__(self, "no image type that is read here: JPEG, PNG and WebP are")


class ImageTooLarge(InvalidImage):
    def __init__(self, *, pixels: int, limit: int) -> None:
        PolyheadError.__init__(self, f"the image has {pixels} pixels, more than the {limit} allowed")


class BackboneError(PolyheadError):
    """One line that names the backbone and what is wrong with it."""


class DeviceLost(BackboneError):
    """A new process can open the device again."""


class ReferenceMismatch(BackboneError):
    def __init__(self, *, name: str, cosine: float, required: float) -> None:
        super().__init__(
            f"backbone {name}: a reference image's embedding has cosine {cosine:.4f} to its recorded value, "
            f"below {required}; the weights, the decoder or the runtime differ from those recorded"
        )


class NoTail(BackboneError):
    def __init__(self, *, name: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"backbone {name} has no tail of its own to train: {reason}; use strategy head or finetune"
        )


class InvalidOption(PolyheadError):
    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        super().__init__(f"option {field} {reason}")


class BackboneMismatch(PolyheadError):
    def __init__(self, *, fitted_on: str, serving: str) -> None:
        self.fitted_on = fitted_on
        self.serving = serving
        super().__init__(
            f"the head was fitted on backbone {fitted_on} and this server runs {serving}: "
            "train the task again here, or serve with the backbone that it was fitted on"
        )


class InvalidHead(PolyheadError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"the head file can't be used: {reason}")


class UntrainableData(PolyheadError):
    """Too few classes or examples; the message names them."""


class ExportError(PolyheadError):
    """The exported file fails its check or disagrees with what was trained."""
