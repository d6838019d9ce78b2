"""The one training loop of all gradient strategies. Imports torch.

The head warms up alone; then blocks train with it, each at the rate of its own group. After every epoch
validation is answered; by `monitor`, it says which state is kept, and that may be the start. Time comes from
a clock that is handed in, randomness from a seed: the same arguments give the same weights on one machine.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from models.arrays import FloatArray, IntArray
from models.blocks import HEAD, parameter_groups
from models.dataset import Targets
from models.evaluate import evaluate
from models.head import Kind, answers
from models.strategies.adapted import Adapted
from models.strategies.budget import Budget
from models.strategies.keeping import Keeping, Reached
from models.strategies.objective import Objective
from models.strategies.options import TrainingOptions

SMALL = 5_000  # training examples below which batch statistics are left alone, at batch_norm auto
ANSWERED = 64  # examples a batch where nothing trains
TIMED = 4  # batches by which the pace of an epoch is judged

Report = Callable[[dict[str, Any]], None]


class Source(Protocol):
    """Where the inputs of the trained network come from."""

    passes: int  # answers of an example that are averaged

    def training(self, rows: IntArray, rng: np.random.Generator) -> Tensor:
        """One batch, augmented: (n, *input shape) float32."""

    def answering(self, rows: IntArray, number: int) -> Tensor:
        """The same examples as pass `number` sees them, the same each time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """What is to be learned, and how."""

    kind: Kind
    targets: Targets  # of all examples
    source: Source
    objective: Objective  # that is trained on
    options: TrainingOptions
    unfreeze_every: int | None = None  # epochs, of FinetuneOptions
    single_lr: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """The network itself was left in the state of `epochs`."""

    epochs: int  # that the kept state was trained for; 0: it is the start
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry an epoch, the start first
    logits: FloatArray | None = None  # (m, C) of the rows held out, by the kept state
    seconds_per_epoch: float = 0.0
    ended: str = "epochs"  # what ended it: epochs, patience or max_seconds
    planned: int = 0  # epochs after the warm-up that the schedule was made for


def train(
    adapted: Adapted,
    lesson: Lesson,
    rows: IntArray,
    held: IntArray,
    *,
    judge: Objective,
    budget: Budget,
    report: Report,
    reserve: float = 0.0,
    stop_after: int | None = None,
    planned: int | None = None,
    keep_last: bool = False,
) -> Trained:
    """Train on `rows`, keep what `held` says by `monitor`; without `held`, what the last epoch gives.

    Args:   judge: the loss that validation is measured by; reserve: what an epoch of a later refit costs, in
            epochs of this one: so much time a kept epoch is left over; stop_after: epochs, of a schedule
            that is planned for all; planned: that many after the warm-up, for a refit; None: those of
            the options, or as many as the budget has time for; keep_last: what the last epoch gives, where
            `held` is too little to tell one epoch from another, or from the start: its best would flatter
            the answers to it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.options.seed)
        course = _Course(
            adapted,
            lesson,
            rows=rows,
            held=held,
            judge=judge,
            budget=budget,
            report=report,
            reserve=reserve,
            planned=planned,
            keep_last=keep_last,
        )
        return course.run(stop_after)


def predict(adapted: Adapted, source: Source, rows: IntArray, passes: int | None = None) -> FloatArray:
    """(m, C) float32 logits, or values of a regression: the mean over the passes. Args: passes: None: all."""
    count = source.passes if passes is None else passes
    modes = {module: module.training for module in adapted.modules()}
    adapted.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(rows), ANSWERED):
            batch = rows[start : start + ANSWERED]
            logits = [adapted(source.answering(batch, number)) for number in range(count)]
            found.append(adapted.head.answers(torch.stack(logits).mean(dim=0)).cpu().numpy())
    for module, mode in modes.items():
        module.training = mode
    outputs = adapted.head.out_features
    return np.concatenate(found) if found else np.zeros((0, outputs), dtype=np.float32)


class _Course:
    def __init__(
        self,
        adapted: Adapted,
        lesson: Lesson,
        *,
        rows: IntArray,
        held: IntArray,
        judge: Objective,
        budget: Budget,
        report: Report,
        reserve: float,
        planned: int | None,
        keep_last: bool,
    ) -> None:
        self.adapted, self.lesson, self.rows, self.held = adapted, lesson, rows, held
        self.judge, self.budget, self.report, self.reserve = judge, budget, report, reserve
        self.options = lesson.options
        self.planned = self.options.epochs if planned is None else planned  # after the warm-up
        self.fixed = planned is not None
        self.keeping = Keeping(lesson.options.monitor, last=keep_last)
        self.shortened = False  # for want of time
        self.rng = np.random.default_rng(self.options.seed)
        self.steps = 0
        self.answering_s = 0.0  # that validation takes
        self.began = budget.now()
        self.history: list[dict[str, Any]] = []
        self.best_epoch = 0

    def run(self, stop_after: int | None) -> Trained:
        optimiser = self._optimiser()
        ended = "epochs"
        self._measure(0, None)
        epoch = 0
        while epoch < (self.epochs if stop_after is None else min(stop_after, self.epochs)):
            epoch += 1
            self.adapted.thaw(self._depth(epoch), norms_train=self._norms_train())
            loss = self._epoch(epoch, optimiser)
            if loss is None:
                ended = "max_seconds"
                break
            self._measure(epoch, loss)
            if (
                len(self.held)
                and not self.keeping.last
                and epoch - max(self.best_epoch, self.options.warmup_epochs) >= self._patience()
            ):
                ended = "patience"
                break
        if ended == "epochs" and self.shortened:
            ended = "max_seconds"
        logits = self._settle()
        return Trained(
            epochs=self.best_epoch,
            history=self.history,
            logits=logits,
            seconds_per_epoch=self._seconds_per_epoch(),
            ended=ended,
            planned=self.planned,
        )

    def _settle(self) -> FloatArray | None:
        """Leave the network in the state that is kept. Returns: (m, C) its logits of the rows held out."""
        kept = self.keeping.settled()
        if kept:
            self.best_epoch = kept.epoch
            self.adapted.load_state_dict(kept.state)
        self.adapted.eval().requires_grad_(requires_grad=False)
        if len(self.held) and self.lesson.source.passes > 1:
            return predict(self.adapted, self.lesson.source, self.held)
        return kept.logits if kept else None

    @property
    def epochs(self) -> int:
        return self.options.warmup_epochs + self.planned

    def _patience(self) -> int:
        """Gradual unfreezing is given the time to reach the next block."""
        return max(self.options.patience, (self.lesson.unfreeze_every or 0) + 1)

    def _depth(self, epoch: int) -> int:
        """How many blocks train in an epoch; they count from 1."""
        since = epoch - self.options.warmup_epochs - 1
        if since < 0:
            return 0
        every, count = self.lesson.unfreeze_every, len(self.adapted.blocks)
        return count if every is None else min(count, 1 + since // every)

    def _norms_train(self) -> bool:
        wanted = self.options.batch_norm
        return wanted == "train" or (wanted == "auto" and len(self.rows) >= SMALL)

    def _optimiser(self) -> torch.optim.AdamW:
        decay = 1.0 if self.lesson.single_lr else self.options.decay
        adapted = self.adapted
        groups = parameter_groups(adapted.blocks, adapted.network, adapted.head, self.options.lr, decay)
        for group in groups:
            group["base_lr"] = group["lr"]
        return torch.optim.AdamW(groups, weight_decay=self.options.weight_decay)

    def _epoch(self, epoch: int, optimiser: torch.optim.AdamW) -> float | None:
        """Returns: the mean loss; None: time was up before its end."""
        total = 0.0
        batches = list(self._batches())
        began = self.budget.now()
        for number, batch in enumerate(batches):
            if self._time_is_up():
                return None
            if number == TIMED:
                self._plan(epoch - 1, (self.budget.now() - began) / number * len(batches))
            self._set_rates(optimiser, epoch, number / len(batches))
            optimiser.zero_grad(set_to_none=True)
            loss = self.lesson.objective(self.adapted(self.lesson.source.training(batch, self.rng)), batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach()) * len(batch)
            self.steps += 1
        self._plan(epoch, self.budget.now() - began)  # where it had too few batches for a look before its end
        return total / len(self.rows)

    def _plan(self, done: int, seconds: float) -> None:
        """Plan fewer epochs where time doesn't allow for all: a schedule that is cut off ends at a high rate.

        Args: done: epochs that are over; seconds: that one takes, its validation left out.
        """
        since = done - self.options.warmup_epochs
        if self.fixed or since < 0 or not math.isfinite(self.budget.end):
            return
        self.fixed = True
        each = seconds * (1 + self.reserve) + self.answering_s
        possible = int(self.budget.left() / each) if each > 0 else self.planned
        planned = max(1, since + possible)
        self.shortened = planned < self.planned
        self.planned = min(self.planned, planned)

    def _batches(self) -> Iterator[IntArray]:
        order = self.rng.permutation(self.rows)
        count = max(1, math.ceil(len(order) / self.options.batch_size))
        yield from np.array_split(
            order, count
        )  # of nearly equal sizes: a last batch of one has no statistics

    def _set_rates(self, optimiser: torch.optim.AdamW, epoch: int, part: float) -> None:
        done = max(0.0, epoch - 1 + part - self.options.warmup_epochs) / max(1, self.planned)
        share = 0.5 * (1 + math.cos(math.pi * done)) if self.options.schedule == "cosine" else 1.0
        # Adam's first steps are of full length whatever the gradient: pretrained weights begin gently
        ramp = min(1.0, done * self.planned + 1 / 32)
        if epoch <= self.options.warmup_epochs and self.options.warmup_lr is not None:
            share = self.options.warmup_lr / self.options.lr
        for group in optimiser.param_groups:
            group["lr"] = group["base_lr"] * share * (1.0 if group["name"] == HEAD else ramp)

    def _measure(self, epoch: int, train_loss: float | None) -> None:
        """Note an epoch, and keep its state where it is the best so far."""
        entry: dict[str, Any] = {"epoch": epoch, "phase": self._phase(epoch), "train_loss": train_loss}
        if len(self.held):
            began = self.budget.now()
            # one pass tells an epoch from the next as well as four; what is kept is answered with all
            logits = predict(self.adapted, self.lesson.source, self.held, passes=1)
            self.answering_s = self.budget.now() - began
            loss, score, higher = self._judged(logits)
            entry |= {"validation_loss": loss} | ({} if score is None else {"score": score})
            rank = self.keeping.rank(loss, score, higher_is_better=higher)
            if self.keeping.better(rank):
                state = self.adapted.state()
                self.keeping.note(Reached(epoch=epoch, rank=rank, state=state, logits=logits))
                self.best_epoch = epoch
        else:
            self.best_epoch = epoch
        self.history.append(entry)
        self.report({**entry, "epochs": self.epochs, "seconds_left": self._seconds_left(epoch)})

    def _phase(self, epoch: int) -> str:
        if epoch == 0:
            return "start"
        return "training" if epoch > self.options.warmup_epochs else "warming up"

    def _judged(self, logits: FloatArray) -> tuple[float, float | None, bool]:
        """Loss and score of the rows held out, and whether a higher score is better."""
        head = self.adapted.head
        raw = torch.from_numpy((logits - head.centre) / head.spread)
        kind, targets = self.lesson.kind, self.lesson.targets[self.held]
        labels = tuple(str(column) for column in range(logits.shape[1]))
        primary = evaluate(kind, labels, targets, answers(kind, logits))["primary"]
        return float(self.judge(raw, self.held)), primary["value"], primary["higher_is_better"]

    def _time_is_up(self) -> bool:
        return self.budget.left() <= self.reserve * self.best_epoch * self._seconds_per_epoch()

    def _seconds_per_epoch(self) -> float:
        per_epoch = math.ceil(len(self.rows) / self.options.batch_size)
        return (self.budget.now() - self.began) * per_epoch / self.steps if self.steps else 0.0

    def _seconds_left(self, epoch: int) -> float | None:
        """At most, of this training; None where no clock is known."""
        if self.budget.clock is None or not self.steps:
            return None
        return max(0.0, min((self.epochs - epoch) * self._seconds_per_epoch(), self.budget.left()))
