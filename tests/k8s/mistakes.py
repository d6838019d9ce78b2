"""Mistakes that somebody could make in a manifest, each as a change of the rendered objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from k8s.objects import Object, name_of

SERVER, TRAINER = "Deployment/polyhead", "Deployment/polyhead-trainer"


class Objects:
    """The objects of an overlay, and ways into them."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self._by_name = {name_of(each): each for each in objects}

    def spec(self, name: str) -> Object:
        found: Object = self._by_name[name]["spec"]
        return found

    def pod(self, name: str = SERVER) -> Object:
        found: Object = self.spec(name)["template"]["spec"]
        return found

    def container(self, name: str = SERVER) -> Object:
        found: Object = self.pod(name)["containers"][0]
        return found

    def settings(self) -> dict[str, str]:
        maps = [each["data"] for name, each in self._by_name.items() if name.startswith("ConfigMap/")]
        data: dict[str, str]
        (data,) = [each for each in maps if "POLYHEAD_PORT" in each]
        return data

    def dashboard(self) -> dict[str, str]:
        data: dict[str, str] = self._by_name["ConfigMap/polyhead-dashboard"]["data"]
        return data

    def rules(self) -> list[Object]:
        groups = self.spec("PrometheusRule/polyhead")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def alert(self, name: str) -> Object:
        (found,) = [rule for rule in self.rules() if rule.get("alert") == name]
        return found


@dataclass(frozen=True, slots=True)
class Mistake:
    plant: Callable[[Objects], object]
    said: str  # part of what the check has to say


def put(where: Callable[[Objects], Object | list[Any]], key: Any, value: object) -> Callable[[Objects], None]:
    def plant(objects: Objects) -> None:
        where(objects)[key] = value

    return plant


def take(where: Callable[[Objects], Object | list[Any]], key: Any) -> Callable[[Objects], None]:
    def plant(objects: Objects) -> None:
        del where(objects)[key]

    return plant


def reworded(old: str, new: str) -> Callable[[Objects], None]:
    """In the dashboard's JSON."""

    def plant(objects: Objects) -> None:
        data = objects.dashboard()
        assert old in data["polyhead.json"]
        data["polyhead.json"] = data["polyhead.json"].replace(old, new)

    return plant


def security(objects: Objects) -> Object:
    found: Object = objects.container()["securityContext"]
    return found


def spread(objects: Objects) -> Object:
    found: Object = objects.pod()["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]
    return found


COMPONENT = "app.kubernetes.io/component"
MISTAKES = {
    "keys without their peppers": Mistake(
        put(Objects.settings, "POLYHEAD_KEY_PEPPERS_FILE", "/etc/elsewhere/peppers"),
        "it asks for keys, and no Secret is mounted for /etc/elsewhere/peppers",
    ),
    "a wrong field": Mistake(
        put(Objects.container, "imagePullPolcy", "Always"), "'imagePullPolcy' was unexpected"
    ),
    "a field of the wrong type": Mistake(
        put(lambda all_: all_.pod(), "terminationGracePeriodSeconds", "60"), "'60' is not of type"
    ),
    "a wrong field of a custom resource": Mistake(
        put(lambda all_: all_.spec("ScaledObject/polyhead-trainer"), "maxReplicas", 8),
        "ScaledObject/polyhead-trainer: spec.maxReplicas: Extra inputs are not permitted",
    ),
    "a value that a custom resource doesn't take": Mistake(
        put(lambda all_: all_.spec("ServiceMonitor/polyhead")["endpoints"][0], "interval", "15"),
        "ServiceMonitor/polyhead: spec.endpoints.0.interval",
    ),
    "a missing selector": Mistake(
        take(lambda all_: all_.spec(SERVER), "selector"), "'selector' is a required property"
    ),
    "a Service without a selector": Mistake(
        take(lambda all_: all_.spec("Service/polyhead"), "selector"), "its selector selects no pods"
    ),
    "a selector of labels that nothing has": Mistake(
        put(lambda all_: all_.spec("Service/polyhead")["selector"], COMPONENT, "serve"),
        "Service/polyhead: its selector selects no pods",
    ),
    "a selector that takes another's pods too": Mistake(
        take(lambda all_: all_.spec(SERVER)["selector"]["matchLabels"], COMPONENT),
        "its selector selects the pods of Deployment/polyhead, Deployment/polyhead-trainer",
    ),
    "a disruption budget of no pods": Mistake(
        put(lambda all_: all_.spec("PodDisruptionBudget/polyhead")["selector"], "matchLabels", {"a": "b"}),
        "PodDisruptionBudget/polyhead: its selector selects no pods",
    ),
    "a monitor of no Service": Mistake(
        put(lambda all_: all_.spec("ServiceMonitor/polyhead")["selector"]["matchLabels"], COMPONENT, "x"),
        "ServiceMonitor/polyhead: its selector selects no Service",
    ),
    "a spread over other pods": Mistake(put(spread, COMPONENT, "trainer"), "by labels of other pods"),
    "a port that no pod has": Mistake(
        put(lambda all_: all_.spec("Service/polyhead")["ports"][0], "targetPort", 8080), "have no port 8080"
    ),
    "a monitored port that the Service hasn't": Mistake(
        put(lambda all_: all_.spec("ServiceMonitor/polyhead")["endpoints"][0], "port", "metrics"),
        "Service/polyhead has no port metrics",
    ),
    "a probe on a port that isn't there": Mistake(
        put(lambda all_: all_.container()["livenessProbe"]["httpGet"], "port", "probes"), "has no port probes"
    ),
    "a port where nobody listens": Mistake(
        put(Objects.settings, "POLYHEAD_PORT", "9000"), "it names ports [8000] and listens on 9000"
    ),
    "an unknown variable": Mistake(
        put(Objects.settings, "POLYHEAD_INFERENCE_THREAD", "2"), "POLYHEAD_INFERENCE_THREAD is no setting"
    ),
    "a variable of nobody's": Mistake(put(Objects.settings, "DEBUG", "1"), "DEBUG is no setting"),
    "a value that the setting doesn't take": Mistake(
        put(Objects.settings, "POLYHEAD_PRECISION", "int4"), "Input should be 'fp32', 'bf16' or 'fp16'"
    ),
    "a ConfigMap that isn't there": Mistake(
        put(lambda all_: all_.container()["envFrom"][0]["configMapRef"], "name", "polyhead"),
        "there is no ConfigMap/polyhead",
    ),
    "a Secret's key that isn't there": Mistake(
        put(lambda all_: all_.container()["env"][0]["valueFrom"]["secretKeyRef"], "key", "database_url"),
        "Secret/polyhead-store has no key database_url",
    ),
    "a trainer with another backbone": Mistake(
        lambda all_: all_.container(TRAINER)["env"].append({"name": "POLYHEAD_PRECISION", "value": "bf16"}),
        "they have different backbones",
    ),
    "a folder that can't be written": Mistake(
        take(lambda all_: all_.container()["volumeMounts"], 0), "it writes to /tmp, where nothing is mounted"
    ),
    "a mount without its volume": Mistake(
        take(lambda all_: all_.pod(TRAINER)["volumes"], 0), "is mounted and not there"
    ),
    "a folder of the node": Mistake(
        put(lambda all_: all_.pod()["volumes"], 0, {"name": "tmp", "hostPath": {"path": "/tmp"}}),
        "volume tmp is a hostPath",
    ),
    "too little time to stop": Mistake(
        put(lambda all_: all_.pod(), "terminationGracePeriodSeconds", 45), "may need 50 s to stop"
    ),
    "a stop before other nodes know": Mistake(
        take(Objects.container, "lifecycle"), "stops while other nodes still send"
    ),
    "variables that a Service would add": Mistake(
        take(lambda all_: all_.pod(), "enableServiceLinks"), "enableServiceLinks has to be false"
    ),
    "replicas beside an autoscaler": Mistake(
        put(lambda all_: all_.spec(SERVER), "replicas", 2),
        "what HorizontalPodAutoscaler/polyhead has set",
    ),
    "an autoscaler of nothing": Mistake(
        put(lambda all_: all_.spec("ScaledObject/polyhead-trainer")["scaleTargetRef"], "name", "trainer"),
        "ScaledObject/polyhead-trainer: there is no Deployment/trainer",
    ),
    "an autoscaler whose metric nobody brings": Mistake(
        put(
            lambda all_: all_.spec("HorizontalPodAutoscaler/polyhead")["metrics"][0]["pods"]["metric"],
            "name",
            "polyhead_inflight_images",
        ),
        "nothing brings polyhead_inflight_images to it",
    ),
    "another version's image": Mistake(
        put(Objects.container, "image", "polyhead:latest"), "the image is polyhead:latest"
    ),
    "a command that polyhead hasn't": Mistake(
        put(Objects.container, "args", ["server"]), "polyhead has no command server"
    ),
    "a trainer that is told nothing, and serves": Mistake(
        take(lambda all_: all_.container(TRAINER), "args"), "it names ports [8001] and listens on 8000"
    ),
    "an alert on a metric that isn't there": Mistake(
        put(lambda all_: all_.alert("PolyheadMetricsMissing"), "expr", "absent(polyhead_inflight_images)"),
        "there is no metric polyhead_inflight_images",
    ),
    "an alert on a ratio that nothing records": Mistake(
        put(
            lambda all_: all_.alert("PolyheadAvailabilitySlowBurn"),
            "expr",
            "polyhead:requests_failed:ratio_rate2d > 0.001",
        ),
        "nothing records polyhead:requests_failed:ratio_rate2d",
    ),
    "an alert that doesn't fire": Mistake(
        put(lambda all_: all_.alert("PolyheadMetricsMissing"), "for", "1d"), "promtool: "
    ),
    "an alert without a test": Mistake(
        lambda all_: all_.spec("PrometheusRule/polyhead")["groups"][0]["rules"].append(
            {"alert": "PolyheadQueues", "expr": "polyhead_queued_images > 100"}
        ),
        "PolyheadQueues is never tested firing",
    ),
    "an alert without a runbook": Mistake(
        take(lambda all_: all_.alert("PolyheadOverloaded")["annotations"], "runbook"),
        "PolyheadOverloaded names no runbook",
    ),
    "a panel of a metric that isn't there": Mistake(
        reworded("polyhead_rejections_total", "polyhead_refusals_total"),
        "many images wait: there is no metric polyhead_refusals_total",
    ),
    "a panel that selects by a label that isn't there": Mistake(
        reworded('outcome=\\"hit\\"', 'result=\\"hit\\"'),
        "polyhead_embedding_cache_total has no label result",
    ),
    "a panel that groups by a label that isn't there": Mistake(
        reworded("by (kind, state)", "by (kind, status)"), "polyhead_trainer_runs_total has no label status"
    ),
    "a metric that no panel shows": Mistake(
        reworded("polyhead_resubmitted_jobs_total", "polyhead_expired_jobs_total"),
        "no panel shows polyhead_resubmitted_jobs",
    ),
    "a dashboard that is no JSON": Mistake(
        reworded('"title": "Polyhead",', '"title": "Polyhead"'), "no JSON"
    ),
}  # fmt: skip

# What checkov finds.
INSECURE = {
    "a root user": Mistake(
        put(lambda all_: all_.pod(), "securityContext", {"runAsUser": 0, "runAsNonRoot": False}),
        "Minimize the admission of root containers",
    ),
    "a writable root": Mistake(
        put(security, "readOnlyRootFilesystem", False), "Use read-only filesystem"
    ),
    "a privileged container": Mistake(put(security, "privileged", True), "privileged"),
    "a way to more privileges": Mistake(
        take(security, "allowPrivilegeEscalation"), "allowPrivilegeEscalation"
    ),
    "capabilities": Mistake(take(security, "capabilities"), "capabilities"),
    "no seccomp profile": Mistake(
        take(lambda all_: all_.pod()["securityContext"], "seccompProfile"), "seccomp"
    ),
    "the node's network": Mistake(put(lambda all_: all_.pod(), "hostNetwork", True), "host network"),
    "no memory limit": Mistake(take(lambda all_: all_.container()["resources"], "limits"), "Memory limits"),
    "no liveness probe": Mistake(take(Objects.container, "livenessProbe"), "Liveness Probe"),
    "a token of the API server": Mistake(
        take(lambda all_: all_.pod(), "automountServiceAccountToken"), "Service Account Tokens"
    ),
}  # fmt: skip
