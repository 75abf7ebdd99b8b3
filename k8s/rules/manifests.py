"""Rendered manifests as the rules look at them: Ray clusters, pods, containers, settings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

Doc = dict[str, Any]

_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("KMGT", start=1)
}


@dataclass(frozen=True)
class Cluster:
    """A RayCluster's spec, of its own or a RayJob's; `place` is where it stands in `owner`."""

    owner: Doc
    place: str
    spec: Doc

    @property
    def groups(self) -> list[tuple[str, Doc]]:
        """Head and worker groups with their places."""
        workers = self.spec.get("workerGroupSpecs") or []
        return [
            (f"{self.place}.headGroupSpec", self.spec.get("headGroupSpec") or {}),
            *((f"{self.place}.workerGroupSpecs[{i}]", group) for i, group in enumerate(workers)),
        ]


@dataclass(frozen=True)
class Pod:
    """A pod template."""

    owner: Doc
    place: str
    role: Literal["head", "worker", "submitter"]
    template: Doc

    @property
    def spec(self) -> Doc:
        """The pod's spec."""
        return self.template.get("spec") or {}

    @property
    def labels(self) -> dict[str, str]:
        """The labels that policies select it by."""
        return dig(self.template, "metadata", "labels") or {}

    @property
    def box(self) -> Doc:
        """The container of Ray, which is the first."""
        return dig(self.spec, "containers", 0) or {}

    @property
    def containers(self) -> list[tuple[str, Doc]]:
        """All containers, the init ones too, with their places."""
        return [
            (f"{self.place}.spec.{kind}[{i}]", container)
            for kind in ("initContainers", "containers")
            for i, container in enumerate(self.spec.get(kind) or [])
        ]


def name_of(doc: Doc) -> str:
    """As in `RayJob/extract`."""
    return f"{doc.get('kind', '?')}/{dig(doc, 'metadata', 'name') or '?'}"


def dig(value: Any, *keys: str | int) -> Any:
    """`value[k1][k2]...`, or None where one of them is missing."""
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def of_kind(docs: list[Doc], kind: str) -> list[Doc]:
    """The objects of one kind."""
    return [doc for doc in docs if doc.get("kind") == kind]


def clusters(docs: list[Doc]) -> Iterator[Cluster]:
    """The clusters that the objects ask for."""
    for doc in of_kind(docs, "RayCluster"):
        yield Cluster(doc, "spec", doc.get("spec") or {})
    for doc in of_kind(docs, "RayJob"):
        spec = dig(doc, "spec", "rayClusterSpec")
        if spec:
            yield Cluster(doc, "spec.rayClusterSpec", spec)


def ray_pods(cluster: Cluster) -> list[Pod]:
    """Head and workers of a cluster."""
    return [
        Pod(
            cluster.owner, f"{place}.template", "worker" if i else "head", group.get("template", {})
        )
        for i, (place, group) in enumerate(cluster.groups)
    ]


def submitters(docs: list[Doc]) -> Iterator[Pod]:
    """The pods that submit RayJobs."""
    for doc in of_kind(docs, "RayJob"):
        template = dig(doc, "spec", "submitterPodTemplate")
        if template:
            yield Pod(doc, "spec.submitterPodTemplate", "submitter", template)


def all_pods(docs: list[Doc]) -> list[Pod]:
    """Every pod template of a rendering."""
    return [pod for cluster in clusters(docs) for pod in ray_pods(cluster)] + [*submitters(docs)]


def containers(docs: list[Doc]) -> Iterator[tuple[Doc, str, Doc, Doc]]:
    """(object, place, container, its pod's spec), the autoscaler's container included."""
    for pod in all_pods(docs):
        for place, container in pod.containers:
            yield pod.owner, place, container, pod.spec
    for cluster in clusters(docs):
        if cluster.spec.get("enableInTreeAutoscaling"):
            options = cluster.spec.get("autoscalerOptions") or {}
            head = ray_pods(cluster)[0].spec
            yield cluster.owner, f"{cluster.place}.autoscalerOptions", options, head


def environment(docs: list[Doc], container: Doc) -> dict[str, str]:
    """A container's variables as far as the rendering tells: literals and ConfigMaps."""
    found: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        found |= config_map(docs, dig(source, "configMapRef", "name")) or {}
    for entry in container.get("env") or []:
        if "value" in entry:
            found[entry["name"]] = entry["value"]
    return found


def config_map(docs: list[Doc], name: str | None) -> dict[str, str] | None:
    """The data of a ConfigMap of the rendering."""
    for doc in of_kind(docs, "ConfigMap"):
        if dig(doc, "metadata", "name") == name:
            return doc.get("data") or {}
    return None


def quantity(text: Any) -> float | None:
    """A Kubernetes quantity as a number (500m is 0.5, 1Gi is 2**30); None if it is none."""
    match = re.fullmatch(r"([0-9.]+)(m|[kMGT]|[KMGT]i)?", str(text))
    if not match:
        return None
    number, unit = float(match[1]), match[2] or ""
    return number / 1000 if unit == "m" else number * _UNITS[unit]
