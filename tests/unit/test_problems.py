"""Errors as problem+json: every one of them, with pointers where they belong."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import ImageTooLarge, InvalidImage, PolyheadError, UnsupportedImage
from service import errors
from service.errors import (
    PROBLEMS,
    InvalidField,
    LabelConflict,
    Overloaded,
    RunActive,
    StoreFull,
    UnknownTask,
)
from service.schemas.problems import describe, pointer_to
from service.web.problems import invalid_request, responses, retry_headers


def all_errors(kind=PolyheadError):
    for child in kind.__subclasses__():
        if child.__module__.startswith(("models.errors", "service.errors")):
            yield child
            yield from all_errors(child)


def test_the_table_covers_every_error():
    assert {kind for kind in all_errors() if kind not in PROBLEMS} == set()
    assert errors.__name__ == "service.errors"


def test_codes_and_statuses_are_sane():
    codes = [row.code for row in PROBLEMS.values()]
    assert len(codes) == len(set(codes))
    assert all(400 <= row.status < 600 for row in PROBLEMS.values())


def test_a_problem_says_what_and_where():
    body = describe(UnknownTask("chairs"), instance="/v1/tasks/chairs").to_json()
    assert body == {
        "type": "urn:polyhead:problem:unknown_task",
        "title": "Unknown task",
        "status": 404,
        "detail": "there is no task 'chairs'",
        "instance": "/v1/tasks/chairs",
        "code": "unknown_task",
    }


def test_a_field_is_pointed_at_within_its_item():
    problem = describe(InvalidField("too long", pointer="/label"), pointer="/examples/3")
    assert [(error.pointer, error.detail) for error in problem.errors] == [("/examples/3/label", "too long")]


def test_an_item_is_pointed_at_by_any_error():
    assert describe(UnsupportedImage(), pointer="/input/1").errors[0].pointer == "/input/1"
    assert describe(UnsupportedImage()).errors is None


def test_what_is_in_the_way_is_named():
    assert describe(RunActive("run_1")).run == "run_1"
    assert describe(LabelConflict("ex_1")).example == "ex_1"


@pytest.mark.parametrize(
    ("error", "seconds"), [(Overloaded(retry_after_s=7), "7"), (StoreFull(), "1"), (InvalidImage("x"), None)]
)
def test_errors_that_pass_say_when_to_come_back(error, seconds):
    assert retry_headers(error).get("Retry-After") == seconds


@pytest.mark.parametrize(
    ("keys", "pointer"), [((), ""), (("a", 0), "/a/0"), (("a/b", "~"), "/a~1b/~0"), (("",), "/")]
)
def test_pointers_are_escaped(keys, pointer):
    assert pointer_to(*keys) == pointer


def test_errors_of_one_status_share_an_entry_in_openapi():
    said = responses(InvalidImage, InvalidField, ImageTooLarge, also={200: {"description": "fine"}})
    assert list(said) == [200, 422, 413]
    assert said[422]["description"] == "Problem: `invalid_image`, `invalid_field`"


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int
    b: list[int] = []


def errors_of(text):
    with pytest.raises(ValidationError) as caught:
        Body.model_validate_json(text)
    return [{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()]


def test_all_that_is_wrong_with_a_body_is_listed():
    problem = invalid_request(errors_of('{"a": "x", "b": [1, "y"], "c": 1}'), instance="/x")
    assert problem.status == 422
    assert [error.pointer for error in problem.errors] == ["/a", "/b/1", "/c"]
    assert problem.detail.endswith("(and 2 more)")


def test_of_very_much_that_is_wrong_some_is_listed_and_the_rest_counted():
    problem = invalid_request(errors_of(f'{{"a": 1, "b": {["y"] * 5000}}}'.replace("'", '"')), instance="/x")
    assert len(problem.errors) == 100
    assert problem.detail.endswith("(and 4999 more)")


def test_what_is_no_json_is_malformed():
    problem = invalid_request(errors_of("{"), instance=None)
    assert (problem.status, problem.code) == (400, "malformed_request")


def test_a_parameter_is_named_rather_than_pointed_at():
    problem = invalid_request([{"type": "x", "loc": ("query", "limit"), "msg": "too large"}], instance=None)
    assert (problem.errors[0].pointer, problem.errors[0].parameter) == ("", "limit")
    assert problem.detail == "limit: too large"
