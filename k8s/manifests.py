"""Rendered manifests as the rules see them: Ray clusters, pods, containers, variables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

Doc = dict[str, Any]

_UNITS: Final = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("KMGT", start=1)
}


class Found(NamedTuple):
    """One problem: the object, where in it, what it should be and what it is."""

    doc: Doc
    path: str
    expected: str
    found: Any
    reason: str = ""

    def __str__(self) -> str:
        """Format as one line."""
        found = "nothing" if self.found is None else repr(self.found)
        reason = f" ({self.reason})" if self.reason else ""
        return f"{name_of(self.doc)}: {self.path}: expected {self.expected}, found {found}{reason}"


@dataclass(frozen=True)
class Pod:
    """A pod template at `path` of `owner`; Ray runs in the first container."""

    owner: Doc
    path: str
    template: Doc

    @property
    def spec(self) -> Doc:
        """The pod's spec."""
        return self.template.get("spec") or {}

    @property
    def labels(self) -> dict[str, str]:
        """The labels that NetworkPolicies select the pod by."""
        return dig(self.template, "metadata.labels") or {}

    @property
    def containers(self) -> list[tuple[str, Doc]]:
        """Containers with their paths, Ray's first and init containers last."""
        return [
            (f"{self.path}.spec.{kind}[{i}]", container)
            for kind in ("containers", "initContainers")
            for i, container in enumerate(self.spec.get(kind) or [])
        ]

    @property
    def volumes(self) -> dict[str, Doc]:
        """The pod's volumes by name."""
        return {str(each.get("name")): each for each in self.spec.get("volumes") or []}

    @property
    def mounts(self) -> dict[str, Doc]:
        """The volumes that Ray's container mounts by path."""
        mounts = self.ray.get("volumeMounts") or []
        return {str(m.get("mountPath")): self.volumes.get(str(m.get("name")), {}) for m in mounts}

    @property
    def ray(self) -> Doc:
        """Ray's container."""
        return self.containers[0][1] if self.containers else {}


@dataclass(frozen=True)
class Cluster:
    """The spec of a RayCluster, or of the cluster that a RayJob starts, at `path` of `owner`."""

    owner: Doc
    path: str
    spec: Doc

    @property
    def workers(self) -> list[tuple[str, Doc]]:
        """Worker groups with their paths."""
        groups = self.spec.get("workerGroupSpecs") or []
        return [(f"{self.path}.workerGroupSpecs[{i}]", group) for i, group in enumerate(groups)]

    @property
    def pods(self) -> list[Pod]:
        """The head's pod and one per worker group."""
        head = (f"{self.path}.headGroupSpec", self.spec.get("headGroupSpec") or {})
        groups = [head, *self.workers]
        return [Pod(self.owner, f"{path}.template", g.get("template") or {}) for path, g in groups]


def name_of(doc: Doc) -> str:
    """Return `Kind/name`."""
    return f"{doc.get('kind', '?')}/{dig(doc, 'metadata.name') or '?'}"


def dig(value: Any, path: str) -> Any:
    """Return the value at `a.b.c`, or None if a key is missing."""
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def of_kind(docs: list[Doc], kind: str) -> list[Doc]:
    """Return the objects of one kind."""
    return [doc for doc in docs if doc.get("kind") == kind]


def clusters(docs: list[Doc]) -> Iterator[Cluster]:
    """Yield all clusters, standing ones and those of jobs."""
    for kind, path in (("RayCluster", "spec"), ("RayJob", "spec.rayClusterSpec")):
        for doc in of_kind(docs, kind):
            if spec := dig(doc, path):
                yield Cluster(doc, path, spec)


def submitters(docs: list[Doc]) -> Iterator[Pod]:
    """Yield the pods that submit RayJobs."""
    for doc in of_kind(docs, "RayJob"):
        if template := dig(doc, "spec.submitterPodTemplate"):
            yield Pod(doc, "spec.submitterPodTemplate", template)


def all_pods(docs: list[Doc]) -> list[Pod]:
    """Return every pod template of a rendering."""
    return [pod for cluster in clusters(docs) for pod in cluster.pods] + [*submitters(docs)]


def environment(docs: list[Doc], container: Doc) -> dict[str, str]:
    """Return a container's variables as far as the rendering has them: literals and ConfigMaps."""
    found: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        found |= config_map(docs, dig(source, "configMapRef.name"))
    literals = [entry for entry in container.get("env") or [] if "value" in entry]
    return found | {str(entry.get("name")): entry["value"] for entry in literals}


def config_map(docs: list[Doc], name: str | None) -> dict[str, str]:
    """Return the data of a ConfigMap; empty if the rendering does not have it."""
    maps = [doc for doc in of_kind(docs, "ConfigMap") if dig(doc, "metadata.name") == name]
    return (maps[0].get("data") or {}) if maps else {}


def quantity(text: Any) -> float | None:
    """Return a Kubernetes quantity as a number (500m is 0.5, 1Gi is 2**30); None if invalid."""
    match = re.fullmatch(r"([0-9.]+)(m|[kMGT]|[KMGT]i)?", str(text))
    return float(match[1]) * _UNITS[match[2] or ""] if match else None
