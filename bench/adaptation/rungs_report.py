"""The rungs of the ladder on the same folds of ELPV, side by side."""

from pathlib import Path
from typing import Any

from bench.adaptation.kept import keep, table, verdict
from bench.adaptation.served import Plan
from bench.adaptation.spread import mean, paired
from bench.report import Machine

RUNGS = ("head", "stages", "last_block", "lora")
CLOSE = 0.01  # to last_block, that lora should come


def report(
    plans: dict[str, Plan], rows: dict[str, list[dict[str, Any]]], where: Machine, folder: Path
) -> str:
    """Write rungs.{json,md}; the tables, for the terminal. Args: plans, rows: by strategy."""
    scores = {rung: {tuple(row["key"]): row["accuracy"] for row in found} for rung, found in rows.items()}
    keys = sorted(set.intersection(*(set(each) for each in scores.values())))
    lines = table(["seed", "fold", *scores], [_row(key, scores) for key in keys])
    means = {rung: mean([scores[rung][key] for key in keys]) for rung in scores}
    seconds = {rung: mean([row["run_s"] for row in rows[rung]]).value for rung in scores}
    parts = [[rung, means[rung], f"{seconds[rung]:.0f}"] for rung in scores]
    lines += ["", *table(["rung", f"accuracy, mean of {len(keys)} folds", "seconds of a run"], parts)]
    said = verdicts({rung: [found[key] for key in keys] for rung, found in scores.items()})
    lines += ["", *(f"- {name}: {text}" for name, text in said.items())]
    server = next(iter(plans.values())).server
    keep(
        folder,
        "rungs",
        title="Rungs on the folds of ELPV",
        about=ABOUT,
        where=where,
        said={
            "settings": {rung: plan.settings for rung, plan in plans.items()},
            "verdicts": said,
            "rows": rows,
        },
        parts=[f"Each with its defaults, server {server}.", "", *lines],
    )
    return "\n".join(lines)


ABOUT = """\
Three of four stratified folds are uploaded without a split, the fourth with `split=test`. The version
that was published, refitted on train and validation, answers the fourth through /predict; in percent."""


def verdicts(scores: dict[str, list[float]]) -> dict[str, str]:
    """Of lora, where it was measured. Args: scores: by rung, of the same folds."""
    if "lora" not in scores:
        return {}
    above_head, to_last_block = (paired(scores["lora"], scores[rung]) for rung in ("head", "last_block"))
    return {
        "lora above head": f"{verdict(reached=above_head.value > 0)} ({above_head})",
        f"lora within {100 * CLOSE:.0f} point of last_block": (
            f"{verdict(reached=to_last_block.value >= -CLOSE)} ({to_last_block})"
        ),
    }


def _row(key: tuple[int, int], scores: dict[str, dict[tuple[int, int], float]]) -> list[Any]:
    return [*key, *(f"{100 * found[key]:.2f}" for found in scores.values())]
