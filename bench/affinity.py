"""Heads spread over replicas by affinity, simulated: `python -m bench.affinity`.

Nothing is served: requests are drawn, a replica is chosen for each, and its cache of heads is kept as the
inference worker keeps it (least recently used out first). Compared: any replica, as a load balancer chooses;
the replica that rendezvous hashing gives to the task (Thaler and Ravishankar 1996); and the same with bounded
loads (Mirrokni, Thorup and Zadimoghaddam 2016), so that a task that everybody asks for overflows to its next.
"""

import argparse
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
BALANCE = 1.25  # of the mean load, which no replica may exceed under `bounded`
LARGE = 1e100
RECENT = 0.999  # of a load that is still counted after another request: about the last thousand


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    tasks: int
    replicas: int
    capacity: int  # heads that one replica holds
    requests: int  # half of them warm the caches and aren't counted
    exponent: float  # of Zipf: the k-th task is asked for as often as k ** -exponent says; 0: all evenly


@dataclass(frozen=True, slots=True)
class Outcome:
    hit_rate: float  # 0-1
    heaviest: float  # requests of the busiest replica, of the mean
    held: int  # distinct heads in all caches together


def rendezvous(tasks: int, replicas: int, places: int = 1) -> Indices:
    """(tasks, places): the replicas with the highest hashes of task and replica, best first."""
    seeds = [
        int.from_bytes(hashlib.sha256(f"replica-{replica}".encode()).digest()[:8])
        for replica in range(replicas)
    ]
    keys = np.arange(1, tasks + 1, dtype=np.uint64)  # (T,)
    scores = np.stack([_mixed(keys ^ np.uint64(seed)) for seed in seeds], axis=1)  # (T, R)
    return np.argsort(~scores, axis=1)[:, :places]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Source: the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def simulate(plan: Plan, way: str, rng: np.random.Generator) -> Outcome:
    """Draw the requests and keep the caches. Args: way: one of WAYS."""
    weights = np.arange(1, plan.tasks + 1, dtype=np.float64) ** -plan.exponent
    asked = rng.choice(plan.tasks, size=plan.requests, p=weights / weights.sum())  # (Q,)
    choose = WAYS[way](plan, rng)
    caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(plan.replicas)]
    hits, served = 0, np.zeros(plan.replicas)
    for number, task in enumerate(asked.tolist()):
        replica = choose(task)
        cache = caches[replica]
        counts = 2 * number >= plan.requests
        if task in cache:
            cache.move_to_end(task)
            hits += counts
        else:
            cache[task] = None
            if len(cache) > plan.capacity:
                cache.popitem(last=False)
        served[replica] += counts
    return Outcome(
        hit_rate=hits / served.sum(),
        heaviest=float(served.max() / served.mean()),
        held=len(set().union(*caches)),
    )


Choose = Callable[[int], int]


def any_replica(plan: Plan, rng: np.random.Generator) -> Choose:
    drawn = iter(rng.integers(plan.replicas, size=plan.requests).tolist())
    return lambda _: next(drawn)


def one_home(plan: Plan, _: np.random.Generator) -> Choose:
    homes = rendezvous(plan.tasks, plan.replicas)[:, 0].tolist()
    return lambda task: int(homes[task])


def bounded(plan: Plan, _: np.random.Generator) -> Choose:
    homes = rendezvous(plan.tasks, plan.replicas, plan.replicas).tolist()
    load, total, weight = [0.0] * plan.replicas, 0.0, 1.0

    def choose(task: int) -> int:
        nonlocal load, total, weight
        most = BALANCE * (total + weight) / plan.replicas
        replica = next((each for each in homes[task] if load[each] + weight <= most), homes[task][0])
        load[replica] += weight
        total += weight
        weight /= RECENT  # later requests count for more, which is cheaper than to have all earlier ones fade
        if weight > LARGE:
            load, total, weight = [each / weight for each in load], total / weight, 1.0
        return int(replica)

    return choose


WAYS: dict[str, Callable[[Plan, np.random.Generator], Choose]] = {
    "any": any_replica,
    "rendezvous": one_home,
    "rendezvous, bounded": bounded,
}


def moved(tasks: int, replicas: int) -> float:
    """Share of tasks that change their home when a replica is added; at least 1 / (replicas + 1) must."""
    before, after = (rendezvous(tasks, count)[:, 0] for count in (replicas, replicas + 1))
    return float(np.mean(before != after))


def report(tasks: int, requests: int, replica_counts: tuple[int, ...], capacity: int) -> list[str]:
    """The rows of the table."""
    rows = []
    for exponent in (0.0, 0.8, 1.0, 1.2):
        for replicas in replica_counts:
            plan = Plan(
                tasks=tasks, replicas=replicas, capacity=capacity, requests=requests, exponent=exponent
            )
            done = [simulate(plan, way, np.random.default_rng(0)) for way in WAYS]
            cells = [f"{each.hit_rate:.1%}, {each.heaviest:.2f} x" for each in done]
            rows.append(f"| {exponent:g} | {replicas} | {' | '.join(cells)} | {moved(tasks, replicas):.1%} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.affinity", description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--capacity", type=int, default=1024, help="heads that a replica holds")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 4, 10, 20])
    said = parser.parse_args()
    print(f"{said.tasks} tasks, {said.requests} requests (half counted), {said.capacity} heads a replica")
    print(f"| Zipf | replicas | {' | '.join(WAYS)} | moved by one replica more |")
    print("|---|---|---|---|---|---|")
    for row in report(said.tasks, said.requests, tuple(said.replicas), said.capacity):
        print(row)


if __name__ == "__main__":
    main()
