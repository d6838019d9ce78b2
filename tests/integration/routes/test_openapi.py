"""The OpenAPI document: complete, with examples, and safe to be thrown at the service."""

import itertools

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from models.strategies import STRATEGIES
from service.app import openapi_schema
from service.web.problems import MEDIA_TYPE
from tests.integration.routes.photos import files, photo

DOCUMENT = openapi_schema()
OPERATIONS = {
    operation["operationId"]: operation
    for methods in DOCUMENT["paths"].values()
    for operation in methods.values()
}
each_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


def has_example(media):
    """Whether a body's schema, or what it refers to, shows an example."""
    if "example" in media or "examples" in media:
        return True
    schema = media["schema"]
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in schema:
        return all(has_example({"schema": each}) for each in schema["anyOf"])
    if "data" in schema.get("properties", {}) and "examples" not in schema:
        return has_example({"schema": schema["properties"]["data"]["items"]})
    return "examples" in schema


@each_operation
def test_every_operation_is_described_with_examples(operation):
    assert operation["description"]
    assert operation["tags"]
    for media in (operation.get("requestBody", {}).get("content", {}).get("application/json"),):
        assert media is None or has_example(media)
    answers = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
    assert answers
    for answer in answers:
        media = answer.get("content", {}).get("application/json")
        assert media is None or has_example(media)


@each_operation
def test_every_error_is_a_problem(operation):
    for status, answer in operation["responses"].items():
        if status == "default" or status.startswith(("4", "5")):
            assert list(answer["content"]) == [MEDIA_TYPE]


def test_only_strategies_that_are_built_are_named():
    assert DOCUMENT["components"]["schemas"]["CreateRun"]["properties"]["strategy"]["enum"] == list(
        STRATEGIES
    )


def test_no_reference_dangles():
    components = DOCUMENT["components"]["schemas"]

    def references(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"].rsplit("/", 1)[1]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    assert set(references(DOCUMENT)) == set(components) & set(references(DOCUMENT))


@pytest.fixture(scope="module")
def fuzzed(open_service, tmp_path_factory):
    """A service with one trained task."""
    with open_service(tmp_path_factory.mktemp("fuzzed")) as service:
        service.client.post("/v1/tasks", json={"name": "known", "kind": "multiclass"})
        for label in ("red", "blue"):
            images = files(*(photo(label, number) for number in range(3)))
            service.client.post("/v1/tasks/known/examples", files=images, data={"label": label})
        service.client.post("/v1/tasks/known/runs", json={})
        service.work()
        yield service


@pytest.fixture(scope="module")
def api(fuzzed):
    """The service as schemathesis reads it from its own document."""
    return schemathesis.openapi.from_asgi("/openapi.json", fuzzed.client.app)


@pytest.fixture(scope="module")
def existing(fuzzed):
    """Path parameters that lead to something."""
    client = fuzzed.client
    return {
        "task": "known",
        "run": client.get("/v1/runs").json()["data"][0]["id"],
        "example": client.get("/v1/tasks/known/examples").json()["data"][0]["id"],
        "version": 1,
    }


def cases():
    """Each operation with right and wrong requests, on anything and on what is there."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            can_be_wrong = "requestBody" in operation or any(
                parameter["in"] == "query" for parameter in operation.get("parameters", [])
            )
            modes = list(GenerationMode) if can_be_wrong else [GenerationMode.POSITIVE]
            for mode, real in itertools.product(modes, [False, True]):
                if not real or ("{" in path and method != "delete"):
                    name = f"{operation['operationId']}-{mode.value}{'-real' if real else ''}"
                    yield pytest.param(path, method, mode, real, id=name)


CHECKS = (not_a_server_error, content_type_conformance, response_schema_conformance)


@pytest.mark.parametrize(("path", "method", "mode", "real"), list(cases()))
def test_no_request_breaks_the_service(api, existing, path, method, mode, real):
    @hypothesis.given(case=api[path][method].as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def check(case):
        if real:
            case.path_parameters |= {k: v for k, v in existing.items() if k in case.path_parameters}
        case.call_and_validate(checks=CHECKS)

    check()
