"""What each child process of a server does first: take a name, and die with its parent."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_NAME = 15
POLL_S = 1.0


def import_from_working_folder() -> None:
    """Let a network of the user's own, `package.module:factory`, be found where the user stands.

    Last, so that a folder of theirs named `models` or `service` hides nothing of ours. An editable install
    finds ours only after everything in `sys.path`, so that they are named there too.
    """
    for folder in (str(Path(__file__).resolve().parents[1]), str(Path.cwd())):
        if folder not in sys.path:
            sys.path.append(folder)


def take_name(name: str) -> None:
    """Set the name that `ps -o comm` and `top` show; Linux keeps 15 bytes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def die_with(parent: int, signal_number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process when its parent is gone, however that went.

    A parent killed with -9 says nothing to its children, which would serve on with nobody to stop them.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent, signal_number), daemon=True).start()
    if os.getppid() != parent:  # it was gone before the call
        os.kill(os.getpid(), signal_number)


def _watch(parent: int, signal_number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal_number)
