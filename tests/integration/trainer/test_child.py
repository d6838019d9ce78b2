"""service/trainer/child.py: work in a process that may die at any moment."""

import os
import signal
import threading
import time

import pytest

from models.errors import ImageTooLarge
from service.errors import RunFailed
from service.trainer.child import Child, ChildCrashed
from service.trainer.lease import Cancelled


def warm(job, report):
    pass


def double(job, report):
    report({"half": job})
    return 2 * job


def sleep(job, report):
    time.sleep(job)


def die(job, report):
    os.kill(os.getpid(), job)


def refuse(job, report):
    raise ImageTooLarge(pixels=job, limit=1)


def stumble(job, report):
    return {}[job]


def exhaust(job, report):
    raise MemoryError


def pid(job, report):
    return os.getpid()


@pytest.fixture
def small_child():
    child = Child(warm, None)
    yield child
    child.close()


def call(child, work, job=None, report=lambda _: None, check=lambda: None):
    return child.call(work, job, report=report, check=check)


def test_work_returns_and_reports_on_the_way(small_child):
    reports = []
    assert call(small_child, double, 21, report=reports.append) == 42
    assert reports == [{"half": 21}]


def test_one_process_serves_many_calls(small_child):
    assert call(small_child, pid) == call(small_child, pid) == small_child.pid != os.getpid()


def test_an_error_of_ours_comes_back_as_it_was_raised(small_child):
    with pytest.raises(ImageTooLarge, match="7 pixels, more than the 1"):
        call(small_child, refuse, 7)
    assert call(small_child, double, 2) == 4


def test_any_other_error_comes_back_with_its_trace(small_child):
    with pytest.raises(ChildCrashed, match="KeyError: 'missing'"):
        call(small_child, stumble, "missing")


def test_want_of_memory_is_said_in_words(small_child):
    with pytest.raises(RunFailed, match="memory"):
        call(small_child, exhaust)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_death_fails_the_work_and_not_the_next(small_child, number):
    with pytest.raises(RunFailed, match="the process that did the work"):
        call(small_child, die, number)
    assert call(small_child, double, 2) == 4


def test_a_death_while_idle_is_not_noticed(small_child):
    call(small_child, pid)
    os.kill(small_child.pid, signal.SIGKILL)
    small_child._process.join()
    assert call(small_child, double, 2) == 4


def test_what_warming_up_raises_is_raised_by_the_first_call():
    child = Child(refuse, 7)
    with pytest.raises(ImageTooLarge):
        call(child, pid)
    child.close()


def test_what_check_raises_kills_the_work_at_once(small_child):
    old = call(small_child, pid)
    wanted = threading.Event()

    def check():
        if wanted.is_set():
            raise Cancelled

    threading.Timer(0.3, wanted.set).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        call(small_child, sleep, 60, check=check)
    assert time.monotonic() - start < 2
    with pytest.raises(ProcessLookupError):
        os.kill(old, 0)
    assert call(small_child, double, 2) == 4
