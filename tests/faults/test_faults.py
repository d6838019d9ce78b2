"""Every fault once, under traffic, in one deployment; `make chaos` does it longer, for many seeds."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faults.campaign import Campaign, campaign, table
from tests.faults.injections import FAULTS

REFUSED_S = 6.0
FROZEN_S = 20.0  # a shorter one would end before a request gives up


pytestmark = pytest.mark.timeout(900)  # the first test also starts everything


@pytest.fixture(scope="module")
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def running(ending: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder = tmp_path_factory.mktemp("faults")
    return ending.enter_context(campaign(folder, 0, refused_s=REFUSED_S, frozen_s=FROZEN_S))


@pytest.mark.parametrize("fault", FAULTS)
def test_the_service_goes_on_after(running: Campaign, fault: str) -> None:
    if "disk" in fault and running.scene.deployment.database_disk is None:
        pytest.skip("no small disk can be mounted here: that takes root")
    running.inject(fault)
    print(table(running.rows[-1:]))


def test_nothing_that_was_acknowledged_is_lost_or_changed_or_stuck_or_late(
    running: Campaign, ending: ExitStack
) -> None:
    """Ends the traffic; then a reader of its own looks at the database and the bucket."""
    ending.close()
    print(table(running.rows))
