"""Reads the database and the bucket themselves, by SQL and GETs, and compares with what was acknowledged."""

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import obstore
import onnxruntime
import sqlalchemy as sa
from obstore.store import S3Store
from sqlalchemy.pool import NullPool

from tests.engines import ACCESS
from tests.faults.deployment import Deployment
from tests.faults.traffic import DEADLINE_S, SHOWN, Ledger, Traffic
from tests.integration.routes.photos import photo

ENDED_S = 90.0  # in which the runs that are left end, after the last fault
TOLERANCE = 1e-4  # of a probability
VERSIONS = (
    "SELECT t.name AS task, v.number, v.run_id, v.head_digest, v.head_key, v.predictions_key, v.labels, "
    "v.metrics::text AS metrics, v.created_at FROM versions v JOIN tasks t ON t.id = v.task_id"
)


@dataclass(slots=True)
class Reader:
    deployment: Deployment
    seen: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)  # versions, as first read
    _engine: sa.Engine = field(init=False)
    _bucket: S3Store = field(init=False)

    def __post_init__(self) -> None:
        self._engine = sa.create_engine(self.deployment.database_url, poolclass=NullPool)
        _, _, bucket, prefix = self.deployment.blob_url.split("/", 3)
        self._bucket = S3Store(
            bucket,
            prefix=prefix,
            config={name.lower(): value for name, value in ACCESS.items()}
            | {"aws_endpoint_url": self.deployment.endpoint},
            client_options={"allow_http": True},
        )

    def rows(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(sa.text(statement), values).mappings()]

    def active_runs(self) -> dict[str, str]:
        """The state of each, or the phase that it shows."""
        found = self.rows(
            "SELECT id, state, progress->>'phase' AS phase FROM runs WHERE state IN ('queued', 'running')"
        )
        return {
            row["id"]: (row["phase"] or "running") if row["state"] == "running" else "queued" for row in found
        }

    def note_versions(self) -> None:
        """What is there now must be there, as it is, in the end."""
        for row in self.rows(VERSIONS):
            self.seen.setdefault((row["task"], row["number"]), row)

    def check(self, traffic: Traffic) -> list[str]:
        """Everything that is wrong, each in a sentence; the traffic has ended."""
        ledger = traffic.ledger
        wrong = self._stuck_runs() + self.lacks(ledger) + self._predictions(traffic, self._now())
        return wrong + [
            f"a {each.kind} on {each.member} took {each.seconds:.1f} s: {each.how}"
            for each in ledger.requests
            if each.seconds > DEADLINE_S
        ]

    def lacks(self, ledger: Ledger) -> list[str]:
        """What isn't there of all that was acknowledged, or is not as it was, each in a sentence."""
        return (
            self._examples(ledger)
            + self._runs(ledger)
            + self._versions(ledger, self._now())
            + self._aliases(ledger)
        )

    def _now(self) -> dict[tuple[str, int], dict[str, Any]]:
        return {(row["task"], row["number"]): row for row in self.rows(VERSIONS)}

    def _bytes(self, key: str) -> bytes | None:
        try:
            return bytes(obstore.get(self._bucket, key).bytes())
        except FileNotFoundError:
            return None

    def _fits(self, key: str, digest: str) -> bool:
        data = self._bytes(key)
        return data is not None and hashlib.sha256(data).hexdigest() == digest

    def _stuck_runs(self) -> list[str]:
        end = time.monotonic() + ENDED_S
        while (active := self.active_runs()) and time.monotonic() < end:
            time.sleep(0.5)
        return [f"{run} is stuck: {phase}" for run, phase in active.items()]

    def _examples(self, ledger: Ledger) -> list[str]:
        found = self.rows(
            "SELECT e.id, t.name AS task, e.image_digest, e.blob_key "
            "FROM examples e JOIN tasks t ON t.id = e.task_id"
        )
        by_image: dict[tuple[str, str], list[str]] = {}
        for row in found:
            by_image.setdefault((row["task"], row["image_digest"]), []).append(row["id"])
        wrong = [
            f"the example {id_} of {image} is there as {by_image.get(image, [])}"
            for image, id_ in ledger.examples.items()
            if by_image.get(image) != [id_]
        ]
        # Also of those that nobody was told of: they are trained on.
        return wrong + [
            f"the bytes of example {row['id']} are not those of its digest"
            for row in found
            if not self._fits(row["blob_key"], row["image_digest"])
        ]

    def _runs(self, ledger: Ledger) -> list[str]:
        found = self.rows(
            "SELECT r.id, r.state, r.error::text AS error, count(v.number) AS versions "
            "FROM runs r LEFT JOIN versions v ON v.run_id = r.id GROUP BY r.id, r.state"
        )
        known = {row["id"] for row in found}
        wrong = [f"{run} of {task} is gone" for run, task in ledger.runs.items() if run not in known]
        return wrong + [
            f"{row['id']} {row['state']} and has {row['versions']} versions: {row['error']}"
            for row in found
            if row["versions"] != (row["state"] == "succeeded")
        ]

    def _versions(self, ledger: Ledger, now: dict[tuple[str, int], dict[str, Any]]) -> list[str]:
        wrong = [f"version {key} has changed" for key, row in self.seen.items() if now.get(key) != row]
        for key, told in ledger.versions.items():
            row = now.get(key)
            if row is None or (row["run_id"], row["head_digest"]) != told:
                wrong.append(f"version {key} was told as {told} and is {row}")
        for key, row in now.items():
            if not self._fits(row["head_key"], row["head_digest"]):
                wrong.append(f"the bytes of version {key} are not those of its digest")
            if self._bytes(row["predictions_key"]) is None:
                wrong.append(f"the answers of version {key} are gone")
        return wrong

    def _aliases(self, ledger: Ledger) -> list[str]:
        found = self.rows(
            "SELECT t.name AS task, a.name, a.version FROM aliases a JOIN tasks t ON t.id = a.task_id"
        )
        now: dict[tuple[str, str], list[int]] = {}
        for row in found:
            now.setdefault((row["task"], row["name"]), []).append(row["version"])
        wrong = []
        for task, number in ledger.published.items():
            # A run that published and whose end nobody was told of may have gone further.
            if not (len(there := now.get((task, "production"), [])) == 1 and there[0] >= number):
                wrong.append(f"production of {task} was published as {number} and is {there}")
        for task, puts in ledger.canaries.items():
            last = max((place for place, (_, told) in enumerate(puts) if told), default=None)
            if last is not None:
                may_be = {number for number, _ in puts[last:]}
                if not (len(there := now.get((task, "canary"), [])) == 1 and there[0] in may_be):
                    wrong.append(f"canary of {task} was put at {may_be} and is {there}")
        return wrong

    def _predictions(self, traffic: Traffic, versions: dict[tuple[str, int], dict[str, Any]]) -> list[str]:
        """Against each version's own file, run here on the embeddings that the service gives."""
        embedded = [self._embed(traffic, photo(*each)) for each in SHOWN]
        inputs = np.array(embedded, np.float32)  # (N, D)
        answers: dict[tuple[str, int], np.ndarray] = {}
        wrong: dict[tuple[str, int], str] = {}
        for task, number, said in traffic.ledger.predictions:
            key = task, number
            if key not in versions:
                wrong[key] = f"a prediction of {task} named version {number}, which isn't there"
                continue
            if key not in answers:
                answers[key] = self._answers(versions[key]["head_key"], inputs)
            labels = versions[key]["labels"]
            given = np.array([[scores[label] for label in labels] for scores in said])  # (N, C)
            if np.abs(given - answers[key]).max() > TOLERANCE:
                wrong[key] = f"a prediction of {task} is not what version {number} answers"
        return list(wrong.values())

    def _embed(self, traffic: Traffic, image: bytes) -> list[float]:
        said = traffic.ask(
            "embed", self.deployment.replicas[0], "POST", "/v1/embeddings", content=image,
            headers={"Content-Type": "image/jpeg"},
        )  # fmt: skip
        assert said is not None
        embedding: list[float] = said.json()["data"][0]["embedding"]
        return embedding

    def _answers(self, key: str, inputs: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(self._bytes(key), providers=["CPUExecutionProvider"])
        (probabilities,) = session.run(["probabilities"], {"embedding": inputs})
        return np.asarray(probabilities)
