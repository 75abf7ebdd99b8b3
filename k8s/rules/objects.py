"""The rendering as a whole: kinds, names, references, secrets, and who reaches the ports."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from rules.findings import Breach, rule
from rules.manifests import (
    Doc,
    Pod,
    all_pods,
    clusters,
    containers,
    dig,
    name_of,
    of_kind,
    ray_pods,
    submitters,
)

_KINDS: Final = {
    "ConfigMap": "v1",
    "Namespace": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PersistentVolumeClaim": "v1",
    "RayCluster": "ray.io/v1",
    "RayJob": "ray.io/v1",
    "ServiceAccount": "v1",
}
_EXTERNAL: Final = {
    ("Secret", "neuneu-s3"),  # made by hand with kubectl create secret, docs/kubernetes.md
    ("ConfigMap", "kube-root-ca.crt"),  # put into every namespace by Kubernetes
}
"""What pods refer to and the rendering does not hold."""
_REFERENCES: Final = {
    "configMap": "ConfigMap",
    "configMapRef": "ConfigMap",
    "configMapKeyRef": "ConfigMap",
    "secret": "Secret",
    "secretRef": "Secret",
    "secretKeyRef": "Secret",
    "persistentVolumeClaim": "PersistentVolumeClaim",
}
_SECRET_NAME: Final = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|(ACCESS|API|PRIVATE)_?KEY"
)
_SECRET_VALUE: Final = re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY")
_DASHBOARD: Final = 8265
_METRICS: Final = 8080
_OPERATOR: Final = {"app.kubernetes.io/component": "kuberay-operator"}


@rule("Kubernetes API reference; no schema of the standard kinds is at hand here.")
def kinds_are_known(docs: list[Doc]) -> Iterator[Breach]:
    """An object of another version or kind would be refused, or be checked by nothing."""
    for doc in docs:
        version, kind = doc.get("apiVersion"), doc.get("kind")
        if _KINDS.get(str(kind)) != version:
            expected = _KINDS.get(str(kind)) or f"of a kind among {sorted(_KINDS)}"
            yield doc, "apiVersion", expected, version


@rule("Kubernetes API conventions.")
def names_are_unique(docs: list[Doc]) -> Iterator[Breach]:
    """The second of two objects with the same name replaces the first."""
    keys = [(name_of(doc), dig(doc, "metadata", "namespace")) for doc in docs]
    for key, count in Counter(keys).items():
        if count > 1:
            yield docs[keys.index(key)], "metadata.name", "one object of this name", count


@rule("Kubernetes docs, namespaces: what is left out goes where kubectl happens to point.")
def one_namespace(docs: list[Doc]) -> Iterator[Breach]:
    """Policies, accounts and claims count only in the namespace of the pods they are for."""
    own = [dig(doc, "metadata", "name") for doc in of_kind(docs, "Namespace")]
    for doc in docs:
        namespace = dig(doc, "metadata", "namespace")
        if doc.get("kind") != "Namespace" and namespace not in own:
            yield doc, "metadata.namespace", f"one of {own}", namespace


@rule("Kubernetes docs, secrets; what is committed is known to all readers.")
def secrets_are_referred_to(docs: list[Doc]) -> Iterator[Breach]:
    """Secret values are made by hand in the cluster, and manifests name them."""
    for doc in docs:
        if doc.get("kind") == "Secret":
            yield doc, "data", "no Secret among the manifests", "a Secret"
        for place, name, value in _literals(doc, ""):
            if _SECRET_NAME.search(name.upper()) or _SECRET_VALUE.search(value):
                yield doc, place, f"a secretKeyRef for {name}", "a value"


@rule("Kubernetes: a pod whose references do not exist never starts.")
def references_exist(docs: list[Doc]) -> Iterator[Breach]:
    """What pods name is in the rendering, or is known to come from elsewhere."""
    there = {(doc.get("kind"), dig(doc, "metadata", "name")) for doc in docs} | _EXTERNAL
    for pod in all_pods(docs):
        account = pod.spec.get("serviceAccountName")
        wanted = [("ServiceAccount", f"{pod.place}.spec.serviceAccountName", account)]
        wanted += _references(pod.spec, f"{pod.place}.spec")
        for kind, place, name in wanted:
            if (kind, name) not in there:
                yield pod.owner, place, f"a {kind} of the rendering, or a known other one", name


@rule("Kubernetes API validation of pods, which CRDs do not repeat.")
def mounts_have_volumes(docs: list[Doc]) -> Iterator[Breach]:
    """A pod that mounts a volume it does not have is refused."""
    for owner, place, container, pod in containers(docs):
        volumes = [volume.get("name") for volume in pod.get("volumes") or []]
        for i, mount in enumerate(container.get("volumeMounts") or []):
            if mount.get("name") not in volumes:
                where = f"{place}.volumeMounts[{i}].name"
                yield owner, where, f"one of the volumes {volumes}", mount.get("name")


@rule("Kubernetes docs, network policies: a pod that none selects is open.")
def ray_pods_are_closed(docs: list[Doc]) -> Iterator[Breach]:
    """GCS, job server and client port run the code of whoever reaches them."""
    for cluster in clusters(docs):
        for pod in ray_pods(cluster):
            if not _policies(docs, pod):
                place = f"{pod.place}.metadata.labels"
                yield (
                    pod.owner,
                    place,
                    "labels that a NetworkPolicy for Ingress selects",
                    pod.labels,
                )


@rule("Ray docs, security: no port of a cluster is for the outside.")
def only_neighbours_come_in(docs: list[Doc]) -> Iterator[Breach]:
    """Ports are for Ray's own pods; dashboard and metrics for pods that are named besides."""
    expected = f"Ray's own pods, or pods by their labels for port {_DASHBOARD} or {_METRICS} alone"
    for pod in (ray_pods(cluster)[0] for cluster in clusters(docs)):
        for policy in _policies(docs, pod):
            for i, entry in enumerate(dig(policy, "spec", "ingress") or []):
                ports = [port.get("port") for port in entry.get("ports") or []]
                for peer in entry.get("from") or [{}]:
                    named = bool(dig(peer, "podSelector", "matchLabels")) and "ipBlock" not in peer
                    own = _selects(peer.get("podSelector"), pod.labels) and set(peer) == {
                        "podSelector"
                    }
                    if not named or not (own or ports in ([_DASHBOARD], [_METRICS])):
                        found = {"from": peer, "ports": ports}
                        yield policy, f"spec.ingress[{i}].from", expected, found


@rule("KubeRay asks the job server how a RayJob fares; its submitter submits there.")
def operator_and_submitter_come_in(docs: list[Doc]) -> Iterator[Breach]:
    """A job that cannot be submitted or watched waits until its deadline."""
    submitting = {id(pod.owner): pod.labels for pod in submitters(docs)}
    for head in (ray_pods(cluster)[0] for cluster in clusters(docs)):
        policies = _policies(docs, head)
        peers = [
            peer
            for policy in policies
            for entry in dig(policy, "spec", "ingress") or []
            if _DASHBOARD in [port.get("port") for port in entry.get("ports") or []]
            for peer in entry.get("from") or []
        ]
        wanted = [("the KubeRay operator", _OPERATOR, True)]
        if id(head.owner) in submitting:
            wanted.append(("the submitter", submitting[id(head.owner)], False))
        for who, labels, elsewhere in wanted:
            if not any(
                _selects(peer.get("podSelector"), labels)
                and ("namespaceSelector" in peer) == elsewhere
                for peer in peers
            ):
                place = f"{head.place}.metadata.labels"
                expected = f"a NetworkPolicy that lets {who} reach port {_DASHBOARD}"
                yield head.owner, place, expected, [name_of(policy) for policy in policies]


def _policies(docs: list[Doc], pod: Pod) -> list[Doc]:
    """The policies for incoming traffic that select a pod."""
    namespace = dig(pod.owner, "metadata", "namespace")
    return [
        policy
        for policy in of_kind(docs, "NetworkPolicy")
        if "Ingress" in (dig(policy, "spec", "policyTypes") or [])
        and dig(policy, "metadata", "namespace") == namespace
        and _selects(dig(policy, "spec", "podSelector"), pod.labels)
    ]


def _selects(selector: Doc | None, labels: dict[str, str]) -> bool:
    """Whether a selector selects these labels; one with expressions counts as selecting none."""
    if selector is None or not set(selector) <= {"matchLabels"}:
        return False
    return (selector.get("matchLabels") or {}).items() <= labels.items()


def _references(value: Any, place: str) -> Iterator[tuple[str, str, Any]]:
    """(kind, place, name) of what a pod's spec refers to; optional ones too, for typing errors."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key in _REFERENCES and isinstance(each, dict):
                name = each.get("name") or each.get("secretName") or each.get("claimName")
                yield _REFERENCES[key], f"{place}.{key}", name
            else:
                yield from _references(each, f"{place}.{key}")
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from _references(each, f"{place}[{i}]")


def _literals(value: Any, place: str) -> Iterator[tuple[str, str, str]]:
    """(place, name, text) of every literal variable and ConfigMap entry of an object."""
    if isinstance(value, dict):
        if isinstance(value.get("name"), str) and isinstance(value.get("value"), str):
            yield f"{place}.value".lstrip("."), value["name"], value["value"]
        for key, each in value.items():
            where = f"{place}.{key}".lstrip(".")
            if place == "data" and isinstance(each, str):
                yield where, key, each
            else:
                yield from _literals(each, where)
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from _literals(each, f"{place}[{i}]")
