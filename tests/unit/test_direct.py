import math
from types import SimpleNamespace
from typing import Annotated, Required

import pytest
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.testclient import TestClient
from typing_extensions import TypedDict

from service.store.records import DEFAULT_TENANT
from service.web.callers import ANYBODY, remember
from service.web.dependencies import PartsDep, TenantDep
from service.web.direct import DirectRoute, json_response


class Said(TypedDict, total=False):
    """What an endpoint was asked."""

    name: Required[str]
    count: Required[int]
    tenant: Required[str]
    words: str | None
    score: float


async def endpoint(
    request: Request,
    name: str,
    parts: PartsDep,
    tenant: TenantDep,
    count: Annotated[int, Query(ge=1, le=5)] = 3,
    words: str | None = None,
) -> Response:
    said: Said = {"name": name, "count": count, "tenant": tenant}
    if words is not None:
        said["words"] = words
    return json_response(said, parts.status, {"X-Method": request.method})


def client_of(route_class):
    router = APIRouter(route_class=route_class)
    router.add_api_route("/things/{name}", endpoint, methods=["POST"], response_model=Said)
    app = FastAPI()
    app.include_router(router)
    app.state.parts = SimpleNamespace(status=207)

    async def known_to_all(scope, receive, send):
        if scope["type"] == "http":
            remember(scope, ANYBODY)
        await app(scope, receive, send)

    return TestClient(known_to_all)


@pytest.fixture(scope="module")
def direct():
    return client_of(DirectRoute)


def test_without_a_query_each_option_has_its_default(direct):
    answer = direct.post("/things/a%20b")

    assert answer.json() == {"name": "a b", "count": 3, "tenant": DEFAULT_TENANT}
    assert (answer.status_code, answer.headers["X-Method"]) == (207, "POST")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("query", ["?count=4", "?words=x", "?words=", "?unknown=1", "?"])
def test_a_query_is_read_as_by_any_route(query, direct):
    answer, expected = (client.post(f"/things/name{query}") for client in (direct, client_of(APIRoute)))

    assert answer.json() == expected.json()
    assert answer.headers == expected.headers


@pytest.mark.parametrize("query", ["?count=0", "?count=many", "?count="])
def test_an_option_that_is_given_is_checked(query, direct):
    assert direct.post(f"/things/name{query}").status_code == 422


def test_openapi_knows_no_difference(direct):
    plain = client_of(APIRoute)

    assert direct.get("/openapi.json").json() == plain.get("/openapi.json").json()


@pytest.mark.parametrize("score", [0.1, 1e-9, 1.0, math.nan])
def test_a_body_is_written_as_fastapi_writes_it(score):
    body: Said = {"name": "Stühle", "count": 1, "tenant": "t", "words": None, "score": score}

    def said() -> Said:
        return body

    app = FastAPI()
    app.get("/")(said)
    expected, answer = TestClient(app).get("/"), json_response(body, 200)

    assert (answer.body, answer.headers["content-type"]) == (
        expected.content,
        expected.headers["content-type"],
    )
