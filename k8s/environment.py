"""Environment variables against the settings: names, values, and what has to agree with them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pydantic import ValidationError
from pydantic_settings import SettingsError

from k8s.objects import Object, Workload, command_of, of_kind, workloads
from models.identity import BackboneConfig
from service.settings import Settings

PREFIX = "POLYHEAD_"
# What libraries read: the temporary folder's parent, and obstore for S3.
FOREIGN = {"HOME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"}


class NotThere(Exception):
    """A value is taken from something that isn't there."""


def check_environment(objects: Sequence[Object], secrets: Sequence[Object]) -> Iterator[str]:
    """Args: secrets: examples of what the overlay reads and doesn't bring."""
    backbones: dict[str, BackboneConfig] = {}
    for workload in workloads(objects):
        for container in workload.main:
            who = f"{workload.name}, container {container['name']}"
            try:
                variables = variables_of(container, objects, secrets)
                yield from (f"{who}: {each}" for each in unknown_names(variables))
                settings = settings_of(variables)
            except NotThere as error:
                yield f"{who}: {error}"
            except (ValidationError, SettingsError) as error:
                yield f"{who}: {' '.join(str(error).split())}"
            else:
                if command_of(container) in ("serve", "worker"):
                    backbones[who] = replace(settings.backbone_config, threads=None)
                yield from (f"{who}: {each}" for each in _agreements(workload, container, settings))
    if len(set(backbones.values())) > 1:
        yield f"they have different backbones, and each fails the other's runs: {', '.join(backbones)}"
    yield from _secrets_of_triggers(objects, secrets)


def variables_of(container: Object, objects: Sequence[Object], secrets: Sequence[Object]) -> dict[str, str]:
    """Names and values, as the kubelet puts them together. Raises: NotThere."""
    sources = {f"ConfigMap/{name}": each for name, each in _data(objects, "ConfigMap", "data")}
    sources |= {f"Secret/{name}": each for name, each in _data(secrets, "Secret", "stringData")}
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if key in source:
                variables |= _look_up(sources, f"{kind}/{source[key]['name']}")
    for entry in container.get("env", []):
        if "value" in entry:
            variables[entry["name"]] = entry["value"]
        for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            reference = entry.get("valueFrom", {}).get(key)
            if reference is not None:
                where = f"{kind}/{reference['name']}"
                variables[entry["name"]] = _key(_look_up(sources, where), reference["key"], where)
    return variables


def _data(objects: Sequence[Object], kind: str, field: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    for _, each in of_kind(objects, kind):
        yield each["metadata"]["name"], each.get(field, {})


def _look_up(sources: Mapping[str, Mapping[str, str]], name: str) -> Mapping[str, str]:
    if name not in sources:
        raise NotThere(f"there is no {name}")
    return sources[name]


def _key(source: Mapping[str, str], key: str, name: str) -> str:
    if key not in source:
        raise NotThere(f"{name} has no key {key}")
    return source[key]


def settings_of(variables: Mapping[str, str]) -> Settings:
    """Raises: ValidationError, SettingsError: a value that the setting doesn't take."""
    with _environment(variables):
        return Settings.model_validate({})  # reads the environment


def unknown_names(variables: Mapping[str, str]) -> Iterator[str]:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in variables:
        if name not in known | FOREIGN:
            yield f"{name} is no setting"


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Make these the only variables: pydantic-settings reads nothing else."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _agreements(workload: Workload, container: Object, settings: Settings) -> Iterator[str]:
    """Between the settings of a container and the rest of its pod."""
    listens = {"serve": settings.port, "worker": settings.metrics_port}.get(command_of(container))
    ports = {port["containerPort"] for port in container.get("ports", [])}
    if ports != ({listens} if listens else set()):
        yield f"it names ports {sorted(ports)} and listens on {listens}"
    writable = [
        mount["mountPath"] for mount in container.get("volumeMounts", []) if not mount.get("readOnly")
    ]
    for folder in (settings.data_dir, settings.cache_dir, "/tmp"):  # noqa: S108 - the containers'
        if str(folder) not in writable:
            yield f"it writes to {folder}, where nothing is mounted"
    if command_of(container) == "serve":
        yield from _peppers(workload, container, settings)
        yield from _grace(workload, container, settings)


def _peppers(workload: Workload, container: Object, settings: Settings) -> Iterator[str]:
    """A server that asks for keys can't start without the secrets that they are kept under."""
    path = settings.resolved_key_peppers_file
    secret = {each["name"] for each in workload.pod.get("volumes", []) if "secret" in each}
    mounts = {mount["mountPath"] for mount in container.get("volumeMounts", []) if mount["name"] in secret}
    if settings.needs_keys and str(path.parent) not in mounts:
        yield f"it asks for keys, and no Secret is mounted for {path}"


def _grace(workload: Workload, container: Object, settings: Settings) -> Iterator[str]:
    """Whether what was accepted can be answered before the pod is killed."""
    if settings.drain_s < settings.request_deadline_s:
        yield f"DRAIN_S {settings.drain_s} gives up on requests that may take {settings.request_deadline_s} s"
    asleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if not asleep:
        yield "without a preStop it stops while other nodes still send requests to it"
    needed = asleep + settings.drain_s + 10  # server.END_S for the processes, and once more for the worker
    grace = workload.pod.get("terminationGracePeriodSeconds", 30)
    if grace < needed:
        yield f"it is killed after {grace} s, and may need {needed:.0f} s to stop"


def _secrets_of_triggers(objects: Sequence[Object], secrets: Sequence[Object]) -> Iterator[str]:
    there = dict(_data(secrets, "Secret", "stringData"))
    for name, each in of_kind(objects, "TriggerAuthentication"):
        for reference in each["spec"].get("secretTargetRef", []):
            if reference["key"] not in there.get(reference["name"], {}):
                yield f"{name}: there is no key {reference['key']} in Secret/{reference['name']}"
