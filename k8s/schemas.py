"""Every object against its schema, strictly: an unknown field is a mistake, in custom resources too."""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import kubernetes_validate
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from pydantic import ValidationError

from k8s.objects import Object, name_of

KUBERNETES = ("1.32", "1.37")  # the oldest that is supported, and the newest that there is a schema of
CUSTOM = {"keda.sh/v1alpha1": keda, "monitoring.coreos.com/v1": prometheus_operator}


def check_schemas(objects: Sequence[Object]) -> Iterator[str]:
    for each in objects:
        yield from (f"{name_of(each)}: {problem}" for problem in _problems(json.dumps(each, sort_keys=True)))


@cache
def _problems(text: str) -> tuple[str, ...]:
    """Once for what several overlays share."""
    each = json.loads(text)
    model = getattr(CUSTOM.get(each["apiVersion"]), each["kind"], None)
    return tuple(_against_kubernetes(each) if model is None else _against_model(text, model))


def _against_kubernetes(each: Object) -> Iterator[str]:
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(part) for part in error.path)
            yield f"Kubernetes {version}: {where}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"Kubernetes {version} knows no {each['kind']} of {each['apiVersion']}"


def _against_model(text: str, model: Any) -> Iterator[str]:
    try:
        model.model_validate_json(text, strict=True, extra="forbid", by_alias=True, by_name=False)
    except ValidationError as error:
        for said in error.errors():
            yield f"{'.'.join(str(part) for part in said['loc'])}: {said['msg']}"
