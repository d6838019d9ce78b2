"""What objects say of each other: selectors and labels, ports, targets, names."""

from collections.abc import Iterator, Sequence

from k8s.objects import Object, Workload, matches, name_of, names, of_kind, workloads

SELECT_PODS = ("Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor")


def check_references(objects: Sequence[Object]) -> Iterator[str]:
    yield from _selectors(objects)
    yield from _ports(objects)
    yield from _scaled(objects)
    yield from _named(objects)


def selected(each: Object, pods: Sequence[Workload]) -> list[Workload]:
    """The workloads whose pods an object selects."""
    selector = each["spec"].get("podSelector" if each["kind"] == "NetworkPolicy" else "selector")
    if each["kind"] == "Service" and selector is not None:
        selector = {"matchLabels": selector}
    return [workload for workload in pods if matches(selector, workload.labels)]


def _selectors(objects: Sequence[Object]) -> Iterator[str]:
    pods = workloads(objects)
    for name, each in of_kind(objects, *SELECT_PODS):
        if not selected(each, pods):
            yield f"{name}: its selector selects no pods"
    for name, each in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet"):
        found = [workload.name for workload in selected(each, pods)]
        if found != [name]:
            yield f"{name}: its selector selects the pods of {', '.join(found) or 'nothing'}"
    for name, each in of_kind(objects, "ServiceMonitor"):
        if not _monitored(each, objects):
            yield f"{name}: its selector selects no Service"
    for workload in pods:
        for spread in workload.pod.get("topologySpreadConstraints", []):
            if not matches(spread.get("labelSelector"), workload.labels):
                yield f"{workload.name}: it spreads over {spread['topologyKey']} by labels of other pods"


def _monitored(monitor: Object, objects: Sequence[Object]) -> list[Object]:
    """The Services that a ServiceMonitor selects."""
    selector = monitor["spec"].get("selector")
    return [
        service
        for _, service in of_kind(objects, "Service")
        if matches(selector, service["metadata"].get("labels", {}))
    ]


def _ports(objects: Sequence[Object]) -> Iterator[str]:
    yield from _ports_of_probes(objects)
    pods = workloads(objects)
    for name, each in of_kind(objects, "Service"):
        wanted = [port.get("targetPort", port["port"]) for port in each["spec"].get("ports", [])]
        yield from _missing(name, wanted, selected(each, pods))
    for name, each in of_kind(objects, "PodMonitor"):
        wanted = [endpoint["port"] for endpoint in each["spec"].get("podMetricsEndpoints", [])]
        yield from _missing(name, wanted, selected(each, pods))
    for name, each in of_kind(objects, "NetworkPolicy"):
        rules = each["spec"].get("ingress", [])
        wanted = [port["port"] for rule in rules for port in rule.get("ports", [])]
        yield from _missing(name, wanted, selected(each, pods))
    for name, each in of_kind(objects, "ServiceMonitor"):
        for service in _monitored(each, objects):
            there = {port.get("name") for port in service["spec"].get("ports", [])}
            wanted = [endpoint["port"] for endpoint in each["spec"].get("endpoints", [])]
            yield from (
                f"{name}: {name_of(service)} has no port {port}" for port in wanted if port not in there
            )


def _ports_of_probes(objects: Sequence[Object]) -> Iterator[str]:
    for workload in workloads(objects):
        for container in workload.containers:
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(kind, {}).get("httpGet", {}).get("port")
                if port is not None and port not in ports_of([container]):
                    yield f"{workload.name}: {container['name']} has no port {port}, which its {kind} asks on"


def _missing(name: str, wanted: Sequence[int | str], pods: Sequence[Workload]) -> Iterator[str]:
    for workload in pods:
        there = ports_of(workload.main)
        yield from (
            f"{name}: the pods of {workload.name} have no port {port}" for port in wanted if port not in there
        )


def ports_of(containers: Sequence[Object]) -> set[int | str]:
    """Numbers and names."""
    ports = [port for container in containers for port in container.get("ports", [])]
    return {port["containerPort"] for port in ports} | {port["name"] for port in ports if "name" in port}


def _scaled(objects: Sequence[Object]) -> Iterator[str]:
    """What scales, and what it scales."""
    for name, each in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        target = each["spec"]["scaleTargetRef"]
        wanted = f"{target.get('kind', 'Deployment')}/{target['name']}"
        found = dict(of_kind(objects, wanted.partition("/")[0])).get(wanted)
        if found is None:
            yield f"{name}: there is no {wanted}"
        elif "replicas" in found["spec"]:
            yield f"{wanted}: `replicas` would undo, with every apply, what {name} has set"


def _named(objects: Sequence[Object]) -> Iterator[str]:
    """Names of other objects; of ConfigMaps and Secrets `environment` knows more."""
    accounts, claims = names(objects, "ServiceAccount"), names(objects, "PersistentVolumeClaim")
    for workload in workloads(objects):
        account = workload.pod.get("serviceAccountName", "default")
        if account not in accounts:
            yield f"{workload.name}: there is no ServiceAccount/{account}"
        for volume in workload.pod.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in claims:
                yield f"{workload.name}: there is no PersistentVolumeClaim/{claim}"
    for name, each in of_kind(objects, "ScaledObject"):
        for trigger in each["spec"]["triggers"]:
            wanted = trigger.get("authenticationRef", {}).get("name")
            if wanted is not None and wanted not in names(objects, "TriggerAuthentication"):
                yield f"{name}: there is no TriggerAuthentication/{wanted}"
