"""What a preparation came to, for people and as JSON."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from service.preparing.outcomes import Outcome
from service.trainer.jobs import WeighedScore

if TYPE_CHECKING:
    from service.preparing.run import Preparation

PIPE_WIDTH = 200  # of what isn't read by people, and so not folded for them


def as_json(preparation: "Preparation") -> dict[str, Any]:
    old, new = preparation.old, preparation.new
    return {
        "old_backbone": {"name": old.name, "digest": old.digest},
        "new_backbone": {"name": new.name, "digest": new.digest},
        "settings": settings_of(preparation),
        "tolerance": preparation.options.tolerance,
        "dry_run": preparation.options.dry_run,
        "interrupted": preparation.interrupted,
        "versions": [asdict(outcome) for outcome in preparation.outcomes],
    }


def settings_of(preparation: "Preparation") -> dict[str, str]:
    """The variables by which servers of the new backbone are started: all that decide which one it is."""
    settings = preparation.settings
    names = ("backbone", "weights", "input_size", "crop_pct", "precision")
    values = {name: getattr(settings, name) for name in names}
    return {f"POLYHEAD_{name.upper()}": str(value) for name, value in values.items() if value is not None}


def print_report(preparation: "Preparation") -> None:
    """To standard output."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(markup=False, highlight=False, emoji=False, width=width)
    outcomes = preparation.outcomes
    several = len({outcome.tenant for outcome in outcomes}) > 1
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = ("task", "aliases", "strategy", "version", "held out", "old score", "new score", "outcome")
    for column in (*(("tenant",) if several else ()), *columns):
        table.add_column(column, overflow="fold")
    for outcome in outcomes:
        table.add_row(*((outcome.tenant,) if several else ()), *_cells(outcome))
    console.print(table)
    console.print(_summary(preparation), soft_wrap=True)


def described_outcome(outcome: Outcome) -> str:
    """One line."""
    said = f"{outcome.task} version {outcome.old_version}: {verdict(outcome)}"
    weighed = outcome.weighed
    if weighed is not None:
        said += f"; {weighed.metric} {_figure(weighed.old)} before, {_figure(weighed.new)} now"
    return said


def verdict(outcome: Outcome) -> str:
    """The state in words."""
    if outcome.state == "published":
        return f"published as version {outcome.version}"
    if outcome.state == "kept":
        return f"stays at version {outcome.version}, published there since"
    if outcome.state == "below":
        return f"below tolerance: version {outcome.version} is not published"
    if outcome.state == "failed":
        return f"not prepared: {outcome.reason}"
    if outcome.state == "to_compare":
        return f"would compare version {outcome.version}, which is there"
    return f"would embed {outcome.missing} images and train"


def _cells(outcome: Outcome) -> tuple[str, ...]:
    weighed = outcome.weighed
    return (
        outcome.task,
        " ".join(outcome.aliases),
        outcome.strategy or "",
        f"{outcome.old_version}" if outcome.version is None else f"{outcome.old_version} → {outcome.version}",
        "" if weighed is None else f"{weighed.metric}, {weighed.count}",
        "" if weighed is None else _figure(weighed.old),
        "" if weighed is None else _figure(weighed.new),
        verdict(outcome),
    )


def _figure(score: WeighedScore) -> str:
    """With its 95 % interval."""
    if score.value is None:
        return "undefined"
    if score.interval is None:
        return f"{score.value:.3f}"
    low, high = score.interval
    return f"{score.value:.3f} ({low:.3f} to {high:.3f})"


def _summary(preparation: "Preparation") -> str:
    outcomes, new = preparation.outcomes, preparation.new
    amiss = sum(outcome.amiss for outcome in outcomes)
    if preparation.options.dry_run:
        return f"A dry run: nothing was changed. {amiss} of {len(outcomes)} can't be prepared."
    there = len(outcomes) - amiss
    said = f"Servers of {new.name} ({new.digest[:12]}) have a version for {there} of {len(outcomes)}."
    if preparation.interrupted:
        return f"{said} Interrupted: run it again to go on."
    started = " ".join(f"{name}={value}" for name, value in settings_of(preparation).items())
    return f"{said} They are started with {started}"
