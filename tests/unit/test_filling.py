"""When the inputs of a training are given up because they would take too long."""

import pytest

from service.trainer.filling import OutOfTime, check_pace


@pytest.mark.parametrize(
    ("seconds", "done"),
    [
        (0.0, 0),  # nothing is known yet
        (14.0, 70),  # 400 s by this pace, in the first tenth of the time
        (140.0, 2000),
    ],
)
def test_a_pace_that_may_still_do_goes_on(seconds, done):
    check_pace(seconds, done, total=2000, most=150.0)


def test_a_slow_beginning_is_not_taken_for_the_whole():
    check_pace(5.0, 50, total=2000, most=150.0)  # 200 s by the first images
    check_pace(16.0, 250, total=2000, most=150.0)  # the others came faster


@pytest.mark.parametrize(("seconds", "done"), [(5.0, 8), (30.0, 390), (149.0, 1900)])
def test_what_is_hopeless_or_has_had_its_trial_is_given_up(seconds, done):
    with pytest.raises(OutOfTime, match="inputs would take"):
        check_pace(seconds, done, total=2000, most=150.0)
