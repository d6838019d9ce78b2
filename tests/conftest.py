"""The databases and places for blobs that tests of every folder use; started when the first test asks."""

from collections.abc import Iterator

import pytest

from tests.stores import CLUSTER, ONE_MACHINE, Cluster, OneMachine, Pair, open_cluster


@pytest.fixture(scope="session")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> OneMachine:
    return OneMachine(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with open_cluster() as cluster:
        yield cluster


@pytest.fixture(params=[ONE_MACHINE, CLUSTER])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """Both, one after the other; the process can open what it names."""
    pair: Pair = request.getfixturevalue("one_machine" if request.param == ONE_MACHINE else "cluster")
    for name, value in pair.environment.items():
        monkeypatch.setenv(name, value)
    return pair
