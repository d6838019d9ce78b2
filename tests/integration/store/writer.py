"""A process that writes until it is killed, and says on its standard output what was acknowledged.

python writer.py examples|hold|trainer DATABASE_URL BLOB_URL TASK
"""

import sys
import time

import sqlalchemy as sa

from service.store import Store, open_store
from service.store.keys import image_key
from service.store.records import Task
from service.store.tables import tasks
from tests.integration.store.values import BACKBONE, TENANT, new_example, new_version

BATCH = 5


def say(*words: object) -> None:
    print(*words, flush=True)


def add_examples(store: Store, task: Task) -> None:
    """Acknowledge each batch, as an upload does: the bytes, then the rows, then the answer."""
    for number in range(1_000_000):
        items = []
        for index in range(BATCH):
            name = f"{number}-{index}"
            key = image_key(task, new_example(name).image_digest)
            store.blobs.put_new(key, name.encode() * 1000)
            items.append(new_example(name, f"class {number % 3}", blob_key=key, embedding=bytes(5120)))
        results = store.examples.add(task, items, backbone_digest=BACKBONE, now=time.time())
        say(*(result.example_id for result in results))


def hold_a_transaction(store: Store, task: Task) -> None:
    with store.database.write() as connection:
        connection.execute(sa.delete(tasks).where(tasks.c.id == task.id))
        say("deleted, not committed")
        time.sleep(600)


def train(store: Store, task: Task) -> None:
    """Claim a run, be stopped and woken, and try to publish late."""
    run = store.runs.claim(0.05, 3)
    assert run is not None
    say("claimed")
    sys.stdin.readline()  # meanwhile stopped, until another has the run
    try:
        store.runs.publish(run.id, run.attempt, new_version(), publish=True, reason="late")
    except Exception as error:  # the test reads which
        say(type(error).__name__)


if __name__ == "__main__":
    what, database_url, blob_url, name = sys.argv[1:]
    opened = open_store(database_url, blob_url)
    act = {"examples": add_examples, "hold": hold_a_transaction, "trainer": train}[what]
    act(opened, opened.tasks.get(TENANT, name))
