"""Whose turn it is at what is done now and then, once for all processes."""

import sqlalchemy as sa

from service.store.database import Database, database_clock, insert
from service.store.tables import turns


def take_turn(database: Database, name: str, every_s: float) -> bool:
    """Whether the caller is to do it now: nobody has begun it for `every_s`. Raises: StoreUnavailable."""
    due = turns.c.taken_at <= database_clock() - every_s
    with database.read() as connection:  # mostly it isn't due, and then it takes no lock
        taken = sa.select(sa.literal(1)).where(turns.c.name == name, ~due)
        if connection.execute(taken).first() is not None:
            return False
    new = insert(connection, turns).values(name=name, taken_at=database_clock())
    mine = new.on_conflict_do_update(
        index_elements=["name"], set_={"taken_at": database_clock()}, where=due
    ).returning(turns.c.name)
    with database.write() as connection:
        return connection.execute(mine).first() is not None
