"""Clients that predict, upload and publish all the while, and remember what they were told."""

import hashlib
import itertools
import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from tests.faults.deployment import Deployment, Member
from tests.integration.routes.photos import COLOURS, files, photo

DEADLINE_S = 30.0  # of any request: the service's own, by default
TASKS = ("steady-0", "steady-1")  # each has an uploader, a publisher and a predictor
AIMED = "aimed"  # of the faults' own runs
FIRST = 8  # photos of each label that a task begins with
SHOWN = tuple((label, 10_000 + number) for label in COLOURS for number in range(2))  # what is predicted
FOLLOWED_S = 240.0  # the longest that a run is waited for: a machine may be busy
TERMINAL = {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True, slots=True)
class Request:
    kind: str  # predict, upload, publish, follow
    member: str
    sent_at: float  # CLOCK_MONOTONIC seconds
    seconds: float
    how: str  # the status, or the name of what httpx raised


@dataclass(slots=True)
class Ledger:
    """What was acknowledged; each thread writes of its own task."""

    requests: list[Request] = field(default_factory=list)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)  # (task, image digest) -> id
    runs: dict[str, str] = field(default_factory=dict)  # id -> task
    versions: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)  # -> run, sha256
    published: dict[str, int] = field(default_factory=dict)  # task -> the newest that a run has published
    canaries: dict[str, list[tuple[int, bool]]] = field(default_factory=dict)  # task -> puts: version, told
    predictions: list[tuple[str, int, tuple[dict[str, float], ...]]] = field(default_factory=list)

    def acknowledged(self) -> "Ledger":
        """What is known to be there by now; of aliases the runs' alone: others move back and forth."""
        return Ledger(
            examples=dict(self.examples),
            runs=dict(self.runs),
            versions=dict(self.versions),
            published=dict(self.published),
        )

    def endings(self, since: float, *kinds: str) -> Counter[str]:
        """How the requests sent since then have ended."""
        return Counter(each.how for each in self.requests if each.sent_at >= since and each.kind in kinds)


@dataclass(slots=True)
class Traffic:
    """Runs while its block does."""

    deployment: Deployment
    ledger: Ledger
    seed: int
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _local: threading.local = field(default_factory=threading.local)

    def __enter__(self) -> Self:
        for task in (*TASKS, AIMED):
            self._create(task)
        for task, member in itertools.product(TASKS, self.deployment.replicas):
            said = self.predict(member, task)  # each knows it from here on, whatever is cut off first
            assert said is not None
            assert said.status_code == 200, said.text
        for task in TASKS:
            for does in (self._predict, self._upload, self._publish):
                thread = threading.Thread(target=does, args=(task,), name=f"{does.__name__}-{task}")
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def ask(self, kind: str, member: Member, method: str, path: str, **body: Any) -> httpx.Response | None:
        """The answer, if there was one."""
        if not hasattr(self._local, "client"):
            # A connection for each request: on one that is kept, a server that ends may close it just as the
            # next request is sent, which says nothing about that request.
            limits = httpx.Limits(max_keepalive_connections=0)
            self._local.client = httpx.Client(timeout=2 * DEADLINE_S, limits=limits)
        sent_at, said, how = time.monotonic(), None, ""
        try:
            said = self._local.client.request(method, f"{member.url}{path}", **body)
            how = str(said.status_code)
        except httpx.HTTPError as error:
            how = type(error).__name__
        self.ledger.requests.append(Request(kind, member.name, sent_at, time.monotonic() - sent_at, how))
        if said is None:
            time.sleep(0.05)
        return said

    def predict(self, member: Member, task: str) -> httpx.Response | None:
        images = files(*(photo(*each) for each in SHOWN))
        said = self.ask("predict", member, "POST", f"/v1/tasks/{task}/predict", files=images)
        if said is not None and said.status_code == 200:
            answer = said.json()
            scores = tuple(
                {each["label"]: each["score"] for each in one["scores"]} for one in answer["predictions"]
            )
            self.ledger.predictions.append((task, answer["version"], scores))
        return said

    def upload(self, member: Member, task: str, label: str, numbers: range) -> bool:
        """Whether it was acknowledged."""
        photos = [photo(label, number) for number in numbers]
        said = self.ask(
            "upload", member, "POST", f"/v1/tasks/{task}/examples", files=files(*photos),
            data={"label": label},
        )  # fmt: skip
        if said is None or said.status_code not in (200, 201):
            return False
        for image, result in zip(photos, said.json()["data"], strict=True):
            self.ledger.examples[task, hashlib.sha256(image).hexdigest()] = result["id"]
        return True

    def queue(self, member: Member, task: str, **options: Any) -> str | None:
        """Ask for a run; the one that is active, where there is one."""
        body = {"publish": "always", "force": True, **options}
        said = self.ask("publish", member, "POST", f"/v1/tasks/{task}/runs", json=body)
        if said is None or said.status_code not in (202, 409):
            return None
        found = re.search(r"run_[0-9a-f]{16,}", said.text)
        if found is None:
            return None
        self.ledger.runs[found[0]] = task
        return found[0]

    def look(self, member: Member, run: str) -> dict[str, Any]:
        """A run as it is told; empty where nothing was."""
        said = self.ask("follow", member, "GET", f"/v1/runs/{run}")
        return said.json() if said is not None and said.status_code == 200 else {}

    def follow(self, run: str, stop: threading.Event | None = None) -> dict[str, Any]:
        """Until it has ended, or is to be left; what it has published is acknowledged by this."""
        said: dict[str, Any] = {}
        end, stop = time.monotonic() + FOLLOWED_S, stop or threading.Event()
        members = itertools.cycle(self.deployment.replicas)
        while time.monotonic() < end and said.get("state") not in TERMINAL:
            if stop.wait(0.2):
                return said
            said = self.look(next(members), run)
        if said.get("state") == "succeeded" and said["published"]:
            self._note_version(said)
        return said

    def _note_version(self, run: dict[str, Any]) -> None:
        task, number = run["task"], run["version"]
        self.ledger.published[task] = max(number, self.ledger.published.get(task, 0))
        for member in self.deployment.replicas:
            said = self.ask("follow", member, "GET", f"/v1/tasks/{task}/versions/{number}")
            if said is not None and said.status_code == 200:
                self.ledger.versions[task, number] = run["id"], said.json()["head_sha256"]
                return

    def _create(self, task: str) -> None:
        replica = self.deployment.replicas[0]
        said = self.ask("publish", replica, "POST", "/v1/tasks", json={"name": task, "kind": "multiclass"})
        assert said is not None
        assert said.status_code == 201, said.text
        for label in COLOURS:
            assert self.upload(replica, task, label, range(FIRST))
        run = self.queue(replica, task)
        assert run is not None
        assert self.follow(run)["state"] == "succeeded"

    def _predict(self, task: str) -> None:
        for member in itertools.cycle(self.deployment.replicas):
            if self._stop.wait(0.1):
                return
            self.predict(member, task)

    def _upload(self, task: str) -> None:
        rng = random.Random(f"{self.seed}-{task}")
        number = FIRST
        while not self._stop.wait(0.25):
            label = rng.choice(list(COLOURS))
            photos = range(number, number + 3)
            # As a user does: what isn't acknowledged is sent again, to the other one perhaps.
            while not self.upload(rng.choice(self.deployment.replicas), task, label, photos):
                if self._stop.wait(0.25):
                    return
            number += 3

    def _publish(self, task: str) -> None:
        rng = random.Random(f"{task}-{self.seed}")
        while not self._stop.wait(0.5):
            run = self.queue(rng.choice(self.deployment.replicas), task, seed=rng.randrange(2**20))
            if run is None:
                continue
            self.follow(run, self._stop)
            known = [number for name, number in self.ledger.versions if name == task]
            if not known:
                continue
            number = rng.choice(known)
            path = f"/v1/tasks/{task}/aliases/canary"
            said = self.ask(
                "publish", rng.choice(self.deployment.replicas), "PUT", path, json={"version": number}
            )
            told = said is not None and said.status_code == 200
            self.ledger.canaries.setdefault(task, []).append((number, told))
