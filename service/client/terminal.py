"""What every command of the client does around its work: a console, errors as one line, exit codes."""

from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from service.client.api import Client, ClientError, Refused
from service.client.folder import UnusableSource
from service.client.training import StillRunning

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def run_command(
    url: str, api_key: str | None, timeout_s: float, work: Callable[[Client, Console], bool]
) -> int:
    """Run `work` and return the exit code.

    0: all well; 1: the run or some files failed, or the service refused; 2: unusable input; 130: Ctrl-C.
    """
    # Labels and file names are data: no markup, no guessing of what to highlight.
    console = Console(markup=False, highlight=False, emoji=False)
    complaints = Console(stderr=True, markup=False, highlight=False, emoji=False)
    try:
        with Client(url, api_key=api_key, timeout_s=timeout_s) as client:
            return OK if work(client, console) else FAILED
    except UnusableSource as unusable:
        complaints.print(Text(str(unusable), "red"), soft_wrap=True)
        return USAGE
    except ClientError as error:
        complaints.print(Text(str(error), "red"), soft_wrap=True)
        if isinstance(error, Refused) and error.code == "key_needed":
            complaints.print("Put it into POLYHEAD_API_KEY, or give it as --api-key.")
        return FAILED
    except StillRunning as interrupted:
        complaints.print(f"Interrupted: {interrupted}", soft_wrap=True)
        return INTERRUPTED
    except KeyboardInterrupt:
        complaints.print("Interrupted: what was uploaded stays; run it again to go on.")
        return INTERRUPTED
