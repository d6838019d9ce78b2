"""Training a task from the terminal: start the run, follow it live, print the report."""

from collections.abc import Callable

from rich.console import Console
from rich.status import Status
from rich.text import Text

from service.client.api import Client, Json, Refused, describe_problem, task_path
from service.client.events import Event, follow_run
from service.client.report import report


class StillRunning(Exception):
    """Ctrl-C while a run goes on at the service."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} goes on; GET /v1/runs/{run_id} says how it ended")


def train(client: Client, task: str, *, strategy: str, publish: str, console: Console) -> bool:
    """Train, wait and report; False where the run failed."""
    run = start_run(client, task, strategy=strategy, publish=publish, console=console)
    console.print(Text.assemble("Run ", (run["id"], "cyan"), f" of task {task}: {run['state']}"))
    if run.get("reused"):
        console.print(f"Nothing has changed since version {run['version']}: it stands, nothing was trained.")
    else:
        run = follow(client, run["id"], console)
    if run["state"] != "succeeded":
        why = describe_problem(run["error"]) if run.get("error") else "no reason given"
        console.print(Text(f"The run has {run['state']}: {why}", "red"), soft_wrap=True)
        return False
    version = client.get(task_path(task, "versions", str(run["version"])))
    console.print(report(version, run))
    return True


def start_run(client: Client, task: str, *, strategy: str, publish: str, console: Console) -> Json:
    """A new run; one that is active already is waited for first, since it may lack the newest photos."""
    while True:
        try:
            # Asked again after a lost answer, it meets the active run, or the version that the run has made.
            return client.post(task_path(task, "runs"), json={"strategy": strategy, "publish": publish})
        except Refused as refused:
            active = refused.problem.get("run")
            if refused.code != "run_active" or not active:
                raise
        console.print(f"Run {active} of the task is active: waiting for it first.")
        follow(client, active, console)


def follow(client: Client, run_id: str, console: Console) -> Json:
    """Show a run's progress until it ends: one changing line on a terminal, a line a change elsewhere.

    Raises: StillRunning: interrupted; the run itself goes on.
    """
    with console.status("Waiting for the trainer") as status:
        try:
            return follow_run(client, run_id, on_event=narrator(console, status))
        except KeyboardInterrupt:
            raise StillRunning(run_id) from None


def narrator(console: Console, status: Status) -> Callable[[Event], None]:
    said = ""

    def tell(event: Event) -> None:
        nonlocal said
        line = describe_event(event)
        if line != said:
            said = line
            status.update(Text(line))
            if event.event == "state" or not console.is_terminal:
                console.print(Text(f"  {line}", "dim"))

    return tell


def describe_event(event: Event) -> str:
    """`running`, or `embedding: 12 of 40, 3 s left`, from those parts of a progress that are known."""
    data = event.data
    if event.event == "state":
        return str(data.get("state", "?"))
    parts = list[str]()
    for what, number, of in (("", "done", "total"), ("candidate ", "candidate", "candidates")):
        if number in data and of in data:
            parts.append(f"{what}{data[number]} of {data[of]}")
    if data.get("epoch") is not None:
        parts.append(f"epoch {data['epoch']}")
    if data.get("score") is not None:
        parts.append(f"score {data['score']:.4f}")
    if data.get("seconds_left") is not None:
        parts.append(f"{data['seconds_left']:.0f} s left")
    return ": ".join(part for part in (str(data.get("phase", "working")), ", ".join(parts)) if part)
