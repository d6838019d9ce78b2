"""The simulation of affinity: what must hold of any hashing, and of caches that are large enough."""

import numpy as np
import pytest

from bench.affinity import BALANCE, WAYS, Plan, moved, rendezvous, report, simulate

PLAN = Plan(tasks=400, replicas=4, capacity=100, requests=4000, exponent=1.0)


def simulated(way, **changed):
    values = {name: getattr(PLAN, name) for name in Plan.__dataclass_fields__} | changed
    return simulate(Plan(**values), way, np.random.default_rng(0))


def test_every_replica_is_home_to_its_share():
    homes = rendezvous(10_000, 8)[:, 0]
    assert np.bincount(homes, minlength=8) == pytest.approx(1250, rel=0.1)


def test_a_replica_more_takes_its_share_and_moves_nothing_between_the_others():
    before, after = (rendezvous(10_000, count)[:, 0] for count in (7, 8))
    assert set(after[before != after]) == {7}
    assert moved(10_000, 7) == pytest.approx(1 / 8, rel=0.1)


def test_the_next_home_is_the_one_that_a_task_has_without_its_first():
    first, second = rendezvous(1000, 5, 2).T
    without = rendezvous(1000, 4)[:, 0]
    assert (without[first == 4] == second[first == 4]).all()


def test_with_room_for_all_nothing_but_first_requests_miss():
    assert simulated("any", tasks=50, requests=8000).hit_rate == 1.0


def test_affinity_holds_more_distinct_heads_than_chance():
    any_replica, home = simulated("any", exponent=0.0), simulated("rendezvous", exponent=0.0)
    assert home.held > any_replica.held
    assert home.hit_rate > 2 * any_replica.hit_rate


def test_bounded_loads_are_bounded_where_one_task_is_asked_for_most():
    assert simulated("rendezvous", exponent=1.5).heaviest > 1.5
    assert simulated("rendezvous, bounded", exponent=1.5).heaviest < BALANCE + 0.05


def test_a_row_has_a_cell_for_each_way():
    rows = report(50, 200, (1, 2), 10)
    assert {row.count("|") for row in rows} == {len(WAYS) + 4}
