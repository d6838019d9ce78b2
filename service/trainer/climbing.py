"""Strategy auto: the rungs of the ladder tried one after another, the best on validation finished.

The choice itself is `models.strategies.climb`; here is what it takes to try a rung: its scratch, its time,
the child that trains it and keeps it.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from models.dataset import Dataset
from models.domain import (
    MOST_IMAGES,
    Domain,
    calibrated_classifier,
    choose_rows,
    domain_of_embeddings,
    given_domain,
    unknown_domain,
)
from models.errors import InvalidOption, NoTail
from models.strategies.climb import FROZEN, Climb, Tried
from models.strategies.options import AutoOptions
from models.strategies.rule import Rule, Rung, choose_rule, means_of
from models.strategies.rungs import FEW_VALIDATION, LEAST_SECONDS, WHOLE_NETWORK, rung_options
from service.store.records import Run
from service.trainer.filling import Filling, OutOfTime, fill_scratch, plan_filling
from service.trainer.gathering import Snapshot, images_of
from service.trainer.jobs import (
    DROP_RUNG,
    FINISH_RUNG,
    MEASURE_DOMAIN,
    TRY_HEAD,
    TRY_RUNG,
    DomainJob,
    Explored,
    Feed,
    Fitted,
    HeadRungJob,
    TunedFitJob,
)
from service.trainer.lease import Lease
from service.trainer.workbench import Phases, Workbench

FINISHING_S = 8.0  # kept for the test's score, the export and the publishing
FILLING = 0.4  # of what is left, that a rung's scratch may take
FILLING_STAGES = 0.7  # the same where nothing but the head is fitted on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Climbed:
    """Where the climb ended: with the head, or with what was fitted on a scratch."""

    record: dict[str, Any]  # for the version's decision
    fitted: Fitted | None = None  # None: the head won, and is still to be fitted
    dataset: Dataset | None = None  # of the scratch
    feed: Feed | None = None


@dataclass(slots=True, kw_only=True)
class Ascent:
    """One run of strategy auto."""

    run: Run
    bench: Workbench
    lease: Lease
    phases: Phases
    snapshot: Snapshot
    dataset: Dataset
    spread: float
    ends: float  # monotonic seconds at which the budget is over
    out_of_time: str = ""  # the first rung whose inputs alone took too long

    def climb(self) -> Climbed:
        """Raises: as a run of the rungs."""
        options = AutoOptions(**self.run.options)
        domain = self._domain(options)
        counts = tuple(self.dataset.per_class.values())
        means = means_of(self.bench.tails, self.bench.identity)
        rule = choose_rule(len(self.dataset), counts, domain.domain, means)
        head = self._try_head(options.seed)
        ladder = Climb(self.dataset.kind, head.targets, start=rule.start)
        ladder.consider(_tried("head", {"seed": options.seed}, head, head.ids))
        kept: _Kept | None = None
        try:
            for rung in rule.order[1:]:
                kept = self._rung(rung, rule=rule, seed=options.seed, ladder=ladder, ids=head.ids, kept=kept)
            record = self._record(rule, domain, ladder)
            if kept is None:
                return Climbed(record=record)
            with self.phases.phase("fitting") as report:
                fitted = self.bench.call(FINISH_RUNG, kept.rung, report=report, lease=self.lease)
        except BaseException:
            self.bench.child.restart()  # it holds what was trained, and its scratch
            raise
        fitted = replace(fitted, decision=fitted.decision | kept.filling.record)
        return Climbed(record=record, fitted=fitted, dataset=kept.dataset, feed=kept.filling.feed)

    def _rung(
        self,
        rung: Rung,
        *,
        rule: Rule,
        seed: int,
        ladder: Climb,
        ids: tuple[str, ...],
        kept: "_Kept | None",
    ) -> "_Kept | None":
        """Try a rung, and let go of it or of the best so far. Returns: the best."""
        left = self.ends - time.monotonic() - FINISHING_S - (kept.refit_seconds if kept else 0.0)
        reason = self._why_not(rung, ladder, left, kept)
        if reason:
            ladder.leave_out(rung, reason)
            return kept
        run = replace(
            self.run,
            strategy=rung,
            options=asdict(rung_options(rule, rung, seed=seed, max_seconds=max(LEAST_SECONDS, left))),
        )
        try:
            share = FILLING_STAGES if rung == "stages" else FILLING
            tried = self._try(run, kept, most_seconds=share * left)
        except (InvalidOption, NoTail, OutOfTime) as error:
            if isinstance(error, OutOfTime):
                self.out_of_time = self.out_of_time or rung
            ladder.leave_out(rung, str(error))
            self._drop(rung)
            return kept
        explored = tried.explored
        if not set(ids) <= set(explored.ids):
            ladder.leave_out(rung, "examples were deleted meanwhile, so that it can't be compared")
            self._drop(rung)
            return kept
        shown = {name: value for name, value in run.options.items() if name != "max_seconds"}
        best = ladder.consider(_tried(rung, shown, explored, ids))
        loser = (kept.rung if kept else "") if best else rung
        if loser:
            self._drop(loser)
        return tried if best else kept

    def _drop(self, rung: str) -> None:
        self.bench.call(DROP_RUNG, rung, report=self.lease.tell, lease=self.lease)

    def _why_not(self, rung: Rung, ladder: Climb, left: float, kept: "_Kept | None") -> str:
        """Why a rung isn't worth trying; empty if it is."""
        if not ladder.goes_on:
            return "the rung before it gained nothing that would make a deeper one worth its time"
        if left < LEAST_SECONDS:
            return f"{max(0.0, left):.0f} s of the budget are left"
        if rung == "finetune" and self.out_of_time:
            return f"there was no time for {self.out_of_time}, which costs less"
        trains = kept is not None and kept.rung not in FROZEN
        if rung == "finetune" and kept and trains and left < WHOLE_NETWORK * kept.explored.seconds:
            return (
                f"all blocks take at least {WHOLE_NETWORK:g} times as long as the last ones, "
                f"{kept.explored.seconds:.0f} s, and {left:.0f} s are left"
            )
        return ""

    def _try(self, run: Run, kept: "_Kept | None", *, most_seconds: float) -> "_Kept":
        """Raises: OutOfTime: what it reads takes too long to compute. InvalidOption, NoTail."""
        taken = kept.filling.bytes_of(len(self.dataset)) if kept else 0
        filling = plan_filling(run, self.bench, len(self.dataset), taken=taken)
        with self.phases.phase("decoding" if filling.stage is None else "mapping") as report:
            dataset = fill_scratch(
                filling,
                self.snapshot,
                self.dataset,
                self.bench,
                report=lambda said: report({**said, "rung": run.strategy}),
                lease=self.lease,
                most_seconds=most_seconds,
            )
        left = self.ends - time.monotonic() - FINISHING_S - (kept.refit_seconds if kept else 0.0)
        job = TunedFitJob(
            backbone=self.bench.backbone,
            strategy=str(run.strategy),
            dataset=dataset,
            options=run.options | {"max_seconds": max(LEAST_SECONDS, left)},
            total_backbone_parameters=self.bench.identity.total_parameters,
            min_examples_per_class=self.bench.settings.min_examples_per_class,
            spread=self.spread,
            input_size=filling.input_size,
            views=filling.views,
            recomputed=filling.recomputed,
            output=filling.feed.output,
            few_validation=FEW_VALIDATION,
        )
        with self.phases.phase("fitting") as report:
            explored = self.bench.call(
                TRY_RUNG,
                job,
                report=lambda said: report({**said, "rung": run.strategy}),
                lease=self.lease,
            )
        return _Kept(rung=str(run.strategy), filling=filling, dataset=dataset, explored=explored)

    def _try_head(self, seed: int) -> Explored:
        job = HeadRungJob(
            dataset=self.dataset,
            seed=seed,
            total_backbone_parameters=self.bench.identity.total_parameters,
            min_examples_per_class=self.bench.settings.min_examples_per_class,
            few_validation=FEW_VALIDATION,
        )
        with self.phases.phase("fitting") as report:
            return self.bench.call(
                TRY_HEAD, job, report=lambda said: report({**said, "rung": "head"}), lease=self.lease
            )

    def _domain(self, options: AutoOptions) -> Domain:
        """As the request says it, else measured on examples that no test holds."""
        if options.domain != "auto":
            return given_domain(options.domain)
        untested = np.array([row for row, split in enumerate(self.dataset.splits) if split != "test"])
        if not len(untested):
            return unknown_domain("every example is a test example")
        rows = untested[choose_rows(len(untested), options.seed, MOST_IMAGES)]
        with self.phases.phase("measuring") as report:
            classifier = calibrated_classifier(self.bench.backbone_file, self.bench.identity.name)
            if classifier is not None:
                return domain_of_embeddings(self.dataset.embeddings[rows], classifier)
            ids = {self.dataset.ids[row] for row in rows}
            job = DomainJob(
                backbone=self.bench.backbone,
                images=tuple(images_of(self.bench.store, self.snapshot, ids)),
                max_pixels=self.bench.settings.max_image_pixels,
            )
            return self.bench.call(MEASURE_DOMAIN, job, report=report, lease=self.lease)

    def _record(self, rule: Rule, domain: Domain, ladder: Climb) -> dict[str, Any]:
        for rung, reason in rule.not_tried.items():
            ladder.leave_out(rung, reason)
        return {"auto": {"rule": asdict(rule), "domain": asdict(domain), **ladder.record()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A rung that the child keeps."""

    rung: str
    filling: Filling
    dataset: Dataset
    explored: Explored

    @property
    def refit_seconds(self) -> float:
        return self.explored.refit_seconds


def _tried(name: str, options: dict[str, Any], explored: Explored, ids: tuple[str, ...]) -> Tried:
    """In the order of the head's validation examples, by which all rungs are compared."""
    row_of = {id_: row for row, id_ in enumerate(explored.ids)}
    return Tried(
        name=name,
        options=options,
        scores=explored.scores[[row_of[id_] for id_ in ids]],
        record=explored.record,
    )
