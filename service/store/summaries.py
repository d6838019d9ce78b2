"""What tasks hold, counted for many at once: a list of tasks costs as many statements as one task."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.store.records import ACTIVE_STATES, PRODUCTION, TaskSummary
from service.store.tables import aliases, classes, example_labels, examples, runs, tasks, versions


def summaries_of(
    connection: Connection, task_ids: Sequence[str], backbone_digest: str
) -> dict[str, TaskSummary]:
    """By id; one that was deleted meanwhile has nothing.

    Args: task_ids: at most a page of them; backbone_digest: of the replica, whose own versions count.
    """

    def by_task(statement: sa.Select[Any]) -> dict[str, Any]:
        """Of (task id, value) rows."""
        return {id_: value for id_, value in connection.execute(statement)}  # noqa: C416 - rows to pairs, for mypy

    counts = {row.task_id: row for row in connection.execute(_counts(task_ids))}
    per_class: dict[str, dict[str, int]] = {id_: {} for id_ in task_ids}
    for row in connection.execute(_per_class(task_ids)):
        per_class[row.task_id][row.name] = row.examples
    revision = by_task(sa.select(tasks.c.id, tasks.c.data_revision).where(tasks.c.id.in_(task_ids)))
    trained = by_task(_newest_revisions(task_ids, backbone_digest))
    made = by_task(_version_counts(task_ids))
    production = by_task(_production(task_ids, backbone_digest))
    active = by_task(
        sa.select(runs.c.task_id, runs.c.id).where(
            runs.c.task_id.in_(task_ids), runs.c.state.in_(ACTIVE_STATES)
        )
    )

    def summary(id_: str) -> TaskSummary:
        labelled = counts[id_].labelled if id_ in counts else 0
        return TaskSummary(
            examples=counts[id_].examples if id_ in counts else 0,
            labelled=labelled,
            per_class=per_class[id_],
            versions=made.get(id_, 0),
            production=production.get(id_),
            needs_training=trained[id_] != revision.get(id_) if id_ in trained else labelled > 0,
            active_run=active.get(id_),
        )

    return {id_: summary(id_) for id_ in task_ids}


def _counts(task_ids: Sequence[str]) -> sa.Select[Any]:
    return (
        sa.select(
            examples.c.task_id,
            sa.func.count().label("examples"),
            sa.func.count(sa.case((examples.c.labelled, 1))).label("labelled"),
        )
        .where(examples.c.task_id.in_(task_ids))
        .group_by(examples.c.task_id)
    )


def _per_class(task_ids: Sequence[str]) -> sa.Select[Any]:
    """In logit order."""
    return (
        sa.select(
            classes.c.task_id, classes.c.name, sa.func.count(example_labels.c.example_id).label("examples")
        )
        .join_from(classes, example_labels, example_labels.c.class_id == classes.c.id, isouter=True)
        .where(classes.c.task_id.in_(task_ids))
        .group_by(classes.c.task_id, classes.c.id, classes.c.name, classes.c.position)
        .order_by(classes.c.position)
    )


def _newest_revisions(task_ids: Sequence[str], backbone_digest: str) -> sa.Select[Any]:
    """The revision of the data that each task's newest version was trained on."""
    newest = (
        sa.select(versions.c.task_id, sa.func.max(versions.c.number).label("number"))
        .where(versions.c.task_id.in_(task_ids), versions.c.backbone_digest == backbone_digest)
        .group_by(versions.c.task_id)
        .subquery()
    )
    its_row = (versions.c.task_id == newest.c.task_id) & (versions.c.number == newest.c.number)
    return sa.select(versions.c.task_id, versions.c.data_revision).join(newest, its_row)


def _version_counts(task_ids: Sequence[str]) -> sa.Select[Any]:
    of_tasks = versions.c.task_id.in_(task_ids)
    return sa.select(versions.c.task_id, sa.func.count()).where(of_tasks).group_by(versions.c.task_id)


def _production(task_ids: Sequence[str], backbone_digest: str) -> sa.Select[Any]:
    return sa.select(aliases.c.task_id, aliases.c.version).where(
        aliases.c.task_id.in_(task_ids),
        aliases.c.name == PRODUCTION,
        aliases.c.backbone_digest == backbone_digest,
    )
