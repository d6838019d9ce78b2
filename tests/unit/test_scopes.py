"""The table of scopes: every route has a row, and each scope opens what it is meant to."""

import pytest

from service.app import openapi_schema
from service.routes import ROUTERS
from service.store.records import SCOPES
from service.web.scopes import INCLUDES, NEEDED, PROBES, missing

OPERATIONS = [route.operation_id for router in ROUTERS for route in router.routes]


def test_every_route_has_a_row_and_every_row_a_route():
    """A new route: say in service/web/scopes.py which scope it needs."""
    assert len(OPERATIONS) == len(set(OPERATIONS)) > 30
    assert set(OPERATIONS) == NEEDED.keys() | PROBES
    assert not NEEDED.keys() & PROBES


def test_a_route_without_a_row_is_open_to_administrators_alone():
    assert missing("a_new_route", ["train"]) == "admin"
    assert missing("a_new_route", ["admin"]) is None


def test_every_scope_is_known_to_the_table():
    assert tuple(INCLUDES) == SCOPES


@pytest.mark.parametrize(
    ("operation", "lets_in"),
    [
        ("predict", {"predict", "train", "admin"}),
        ("create_embeddings", {"predict", "train", "admin"}),
        ("get_example_image", {"train", "admin"}),
        ("add_examples", {"train", "admin"}),
        ("put_alias", {"train", "admin"}),
        ("download_model", {"train", "admin"}),
        ("delete_task", {"admin"}),
        ("metrics", {"metrics"}),
        ("live", set(SCOPES)),
        (None, set(SCOPES)),
    ],
)
def test_a_scope_opens_what_it_says(operation, lets_in):
    assert {scope for scope in SCOPES if missing(operation, [scope]) is None} == lets_in


def test_a_key_of_several_scopes_may_do_what_each_of_them_may():
    assert missing("metrics", ["predict", "metrics"]) is None
    assert missing("predict", ["predict", "metrics"]) is None


def test_openapi_says_which_scope_each_operation_needs():
    document = openapi_schema()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    said = {
        operation["operationId"]: operation.get("security")
        for methods in document["paths"].values()
        for operation in methods.values()
    }
    assert said == {name: [{"bearer": [scope]}, {"header": [scope]}] for name, scope in NEEDED.items()} | (
        dict.fromkeys(PROBES)
    )
