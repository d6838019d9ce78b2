"""`make chaos`: every fault, in an order and at moments that the seed chooses, for many seeds.

python -m tests.faults --seeds 10 --rounds 1 --write docs/benchmarks/faults.md
"""

import argparse
import random
import sys
import tempfile
import traceback
from pathlib import Path

from tests.faults.campaign import Row, campaign, summary, table
from tests.faults.injections import FAULTS

CUT_S = 20.0
READY_S = 5.0

HEADER = """# What faults do

Two API replicas and two trainers share PostgreSQL 18 and an S3 server (SeaweedFS), each of the four behind
proxies of its own, under steady predict, upload and publish traffic to two tasks on a tiny backbone. Made by
`make chaos {arguments}`. At the end of each seed a reader of its own, by SQL and GETs, looks for every
example, version and alias that was acknowledged, hashes every blob, looks for runs that are stuck and
requests that took more than 30 s, and runs each version's own file on the photos that it was asked about.

*Ready again* runs from when a fault was mended (a kill: from the kill; a process that is started again: from
when it says that it is ready) to when both replicas answered predictions and writes. The statuses are of all
that was sent from the fault until then; names in letters are connections that ended without an answer.
"""


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--first", type=int, default=1, help="the first seed")
    options.add_argument("--rounds", type=int, default=1, help="of all faults, for each seed")
    options.add_argument("--only", default="", help="the faults whose names have this")
    options.add_argument("--write", type=Path, help="a file for the tables, as Markdown")
    chosen = options.parse_args()
    rows, said, failed = list[Row](), list[str](), False
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        try:
            one(seed, chosen.rounds, [name for name in FAULTS if chosen.only in name], rows, said)
        except Exception as error:
            failed = True
            traceback.print_exc()
            said.append(f"seed {seed} FAILED: {error!r}")
        print(said[-1], flush=True)
    text = f"{table(rows)}\n\n" + "\n".join(f"- {each}" for each in said) + "\n"
    print(text)
    if chosen.write is not None:
        arguments = f"SEEDS={chosen.seeds} ROUNDS={chosen.rounds}"
        chosen.write.write_text(f"{HEADER.format(arguments=arguments)}\n{text}", "utf-8")
    return int(failed)


def one(seed: int, rounds: int, faults: list[str], rows: list[Row], said: list[str]) -> None:
    """Raises: AssertionError."""
    with tempfile.TemporaryDirectory() as folder:
        order = random.Random(seed)
        with campaign(Path(folder), seed, refused_s=CUT_S, frozen_s=CUT_S) as running:
            for _ in range(rounds):
                for fault in order.sample(faults, len(faults)):
                    if "disk" in fault and running.scene.deployment.database_disk is None:
                        print(f"seed {seed}: left out, as no small disk can be mounted here: {fault}")
                        continue
                    row = running.inject(fault)
                    print(table([row]).splitlines()[-1], flush=True)
                    if row.ready_s > READY_S:
                        print(f"seed {seed}: {fault}: ready again after {row.ready_s:.1f} s", flush=True)
                    rows.append(row)
        said.append(summary(running.scene.traffic))


if __name__ == "__main__":
    sys.exit(main())
