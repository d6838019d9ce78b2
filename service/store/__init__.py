"""Where everything that outlives a process is kept."""

from service.store.quotas import Quotas
from service.store.schema import check_schema, migrate
from service.store.store import Store, open_store

__all__ = ["Quotas", "Store", "check_schema", "migrate", "open_store"]
