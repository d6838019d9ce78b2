"""What a request for a training comes to: a refusal, a plan, a version that is there, or a queued run."""

from dataclasses import dataclass

from models.trainable import check_trainable, evaluation_rule
from service.errors import StaleETag, UnknownAlias
from service.schemas.runs import AutoPlan, CreateRun, RunPlan
from service.store.records import PRODUCTION, NewRun, Run, Task, TaskSummary
from service.web.advising import advise, parameters_at
from service.web.options import (
    Bounds,
    canonical_options,
    check_network,
    check_strategy,
    tail_of,
    trainable_parameters,
)
from service.web.parts import Parts


@dataclass(frozen=True, slots=True)
class Plan:
    task: Task
    summary: TaskSummary
    run: NewRun
    equal_version: int | None  # made of the same data with the same options
    trainable_parameters: int


def plan(parts: Parts, task: Task, body: CreateRun) -> Plan:
    """Check that a run can succeed, and whether its result is there already.

    Raises: StrategyNotAvailable, InvalidField, InvalidOption, NoTail, UntrainableData.
    """
    check_strategy(body.strategy)
    options = canonical_options(body)
    store, digest = parts.store, parts.identity.digest
    summary = store.tasks.summary(task, digest)
    check_trainable(task.kind, summary.per_class, summary.labelled, parts.settings.min_examples_per_class)
    bounds = Bounds(identity=parts.identity, scratch_bytes=parts.settings.scratch_bytes)
    tail = tail_of(body.strategy, options, parts.tails, labelled=summary.labelled, bounds=bounds)
    if body.strategy == "finetune":
        check_network(options, labelled=summary.labelled, bounds=bounds)
    run = NewRun(
        task_id=task.id,
        kind="train",
        strategy=body.strategy,
        options=options,
        publish=body.publish,
        backbone_digest=digest,
    )
    equal = (
        None
        if body.force
        else store.versions.find_equal(task, body.strategy, run.options, task.data_revision, digest)
    )
    trainable = trainable_parameters(task, parts.identity, tail, options)
    return Plan(task, summary, run, equal, trainable)


def describe(parts: Parts, planned: Plan) -> RunPlan:
    """What would be done, without doing it."""
    task, summary = planned.task, planned.summary
    splits = parts.store.examples.splits_in_use(task)
    evaluation, because = evaluation_rule(task.kind, summary.per_class, summary.labelled, splits)
    trainable, auto = planned.trainable_parameters, None
    if planned.run.strategy == "auto":
        rule, domain = advise(parts, task, summary, planned.run.options)
        trainable, auto = parameters_at(rule, parts, trainable), AutoPlan.of(rule, domain)
    return RunPlan(
        task=task.name,
        strategy=planned.run.strategy or "",
        options=planned.run.options,
        publish=planned.run.publish,
        evaluation=evaluation,
        evaluation_because=because,
        labelled=summary.labelled,
        unlabelled=summary.examples - summary.labelled,
        per_class=summary.per_class,
        trainable_parameters=trainable,
        reuses_version=planned.equal_version,
        auto=auto,
    )


def queue(parts: Parts, planned: Plan, now: float) -> Run:
    """Queue the run, or answer with the version that is equal to what it would make.

    Raises: RunActive, UnknownTask.
    """
    tenant, version = planned.task.tenant, planned.equal_version
    if version is None:
        return parts.store.runs.create(tenant, planned.run, now)
    published, why = _publish_again(parts, planned, version, now)
    reason = f"nothing has changed since version {version} was trained; {why}"
    return parts.store.runs.create_reused(
        tenant, planned.run, version, now, published=published, reason=reason
    )


def _publish_again(parts: Parts, planned: Plan, version: int, now: float) -> tuple[bool, str]:
    """Whether a version that was there already becomes `production`, and why."""
    aliases, digest, policy = parts.store.aliases, parts.identity.digest, planned.run.publish
    try:
        current = aliases.get(planned.task, PRODUCTION, digest)
    except UnknownAlias:
        current = None
    if policy == "never":
        return False, "the run asked for publish: never"
    if current is not None and current.version == version:
        return True, f"it is {PRODUCTION} already"
    if current is not None and (policy != "always" or current.pinned):
        return False, f"{PRODUCTION} stays at version {current.version}"
    seen = None if current is None else current.revision
    try:
        aliases.put(planned.task, PRODUCTION, version, backbone_digest=digest, if_match=seen, now=now)
    except StaleETag:  # moved or pinned by somebody since we looked, which stays
        return False, f"{PRODUCTION} was changed meanwhile"
    parts.resolver.change(planned.task.tenant, planned.task.name)
    return True, f"it is {PRODUCTION} now"
