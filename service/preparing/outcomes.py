"""What becomes of a version that servers of the old backbone answer from."""

from dataclasses import dataclass, field
from typing import Literal

from service.trainer.jobs import Weighed

ROUNDING = 1e-9  # between two scores that are the same

State = Literal["published", "kept", "below", "failed", "to_train", "to_compare"]
AMISS: tuple[State, ...] = ("below", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One version, and how far its successor is.

    published: servers of the new backbone answer from the successor. kept: from another version, that was
    published for them after the old one was. below: nothing was published, by its score. failed: there is no
    successor, or nothing to compare it by. to_train, to_compare: of a dry run.
    """

    tenant: str
    task: str
    aliases: tuple[str, ...]
    old_version: int
    state: State
    strategy: str | None = None
    version: int | None = None  # the successor
    weighed: Weighed | None = None
    reason: str | None = None  # of a state that isn't well, or isn't expected
    missing: int = 0  # embeddings of a dry run that would be computed
    moved: tuple[str, ...] = field(default=())  # aliases that were set now

    @property
    def amiss(self) -> bool:
        return self.state in AMISS


def is_within(weighed: Weighed, tolerance: float) -> bool | None:
    """Whether the new score is no worse than the old one less `tolerance`; None where either is undefined.

    A regression's tolerance is a share of the standard deviation of its targets.
    """
    old, new = weighed.old.value, weighed.new.value
    if old is None or new is None:
        return None
    lost = (old - new) if weighed.higher_is_better else (new - old)
    return lost <= tolerance * weighed.spread + ROUNDING
