"""Rules for what is accepted everywhere and regretted later.

What KubeRay's CRDs and its validation.go, Kueue's webhooks, kustomize or Kubernetes itself refuse
has no rule here; the pod security profile, which Kubernetes enforces, is required of the namespace.
"""

import itertools
import re
import shlex
from collections.abc import Callable, Iterator
from string import Template
from typing import Any, Final

from manifests import (
    Doc,
    Found,
    Pod,
    all_pods,
    clusters,
    config_map,
    dig,
    environment,
    name_of,
    of_kind,
    quantity,
    submitters,
)

_PROFILE: Final = "pod-security.kubernetes.io/enforce"
_IMAGE: Final = re.compile(r".+(@sha256:[0-9a-f]{64}|:(?!latest$)[\w.-]+)")
_WAIT: Final = "RAY_JOB_STOP_WAIT_TIME_S"
_SHORTEST_GRACE_S: Final = 30
_DASHBOARD, _METRICS = 8265, 8080
_OPERATOR: Final = {"app.kubernetes.io/component": "kuberay-operator"}
_SECRET_NAME: Final = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|(ACCESS|API|PRIVATE)_?KEY"
)
_SECRET_VALUE: Final = re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY")
_REFERENCES: Final = {
    **dict.fromkeys(("configMap", "configMapRef", "configMapKeyRef"), "ConfigMap"),
    **dict.fromkeys(("secret", "secretRef", "secretKeyRef"), "Secret"),
    "persistentVolumeClaim": "PersistentVolumeClaim",
}
# Not part of a rendering: made by hand (docs/kubernetes.md), or by Kubernetes in every namespace.
_EXTERNAL: Final = {("Secret", "neuneu-s3"), ("ConfigMap", "kube-root-ca.crt")}

# Scope (see `_scopes`), field, expected value or (description, test), reason.
_Expected = str | bool | tuple[str, Callable[[Any], Any]]
_AMOUNT: Final = ("an amount", quantity)
_NO_REQUEST = "without requests a pod is evicted first, without limits Ray counts on the whole node"
FIELDS: Final[list[tuple[str, str, _Expected, str]]] = [
    ("Namespace", "metadata.labels", (f"{_PROFILE}: restricted",
     lambda labels: (labels or {}).get(_PROFILE) == "restricted"),
     "Kubernetes then refuses pods that run as root, gain privileges or use the host"),
    ("RayJob", "spec.submissionMode", "K8sJobMode",
     "`kubectl logs job/NAME` then shows the log (KubeRay common/job.go)"),
    ("RayJob", "spec.shutdownAfterJobFinishes", True, "an idle cluster costs money"),
    ("RayJob", "spec.activeDeadlineSeconds", ("a number of seconds", bool),
     "a job that hangs would hold its nodes forever"),
    ("RayJob", "spec.backoffLimit", ("1 or more", bool),
     "nodes are lost, and jobs resume from their output"),
    ("cluster", "authOptions.mode", "token", "whoever reaches the job server can run code"),
    ("autoscaled", "autoscalerOptions.version", "v2", "version 1 is KubeRay's default"),
    ("autoscaled", "headGroupSpec.rayStartParams.num-cpus", "0",
     "work on the head competes with the GCS (Ray docs, KubeRay autoscaling)"),
    ("pod", "spec.automountServiceAccountToken", False, "only the autoscaler needs Kubernetes"),
    ("container", "image",
     ("a digest or a tag other than latest", lambda image: _IMAGE.fullmatch(str(image))),
     "a moving tag gives head and workers different versions of Ray"),
    ("container", "resources.requests.cpu", _AMOUNT, _NO_REQUEST),
    ("container", "resources.requests.memory", _AMOUNT, _NO_REQUEST),
    ("container", "resources.limits.cpu", _AMOUNT, _NO_REQUEST),
    ("container", "resources.limits.memory", _AMOUNT, _NO_REQUEST),
]  # fmt: skip


def check_rules(docs: list[Doc]) -> list[Found]:
    """Return what the rules find in one rendering."""
    return [found for rule in RULES for found in rule(docs)]


def fields_are_set(docs: list[Doc]) -> Iterator[Found]:
    """Check the table `FIELDS`."""
    for scope, doc, prefix, value in _scopes(docs):
        for wanted, path, expected, reason in FIELDS:
            actual = dig(value, path)
            if wanted != scope:
                continue
            if isinstance(expected, tuple):
                text, passes = expected[0], expected[1](actual)
            else:
                text, passes = repr(expected), actual == expected
            if not passes:
                yield Found(doc, f"{prefix}{path}", text, actual, reason)


def groups_are_distinct_and_bounded(docs: list[Doc]) -> Iterator[Found]:
    """Check names, replicas and resources of worker groups."""
    for cluster in clusters(docs):
        names = {"head", "headgroup"}
        for path, group in cluster.workers:
            name = group.get("groupName")
            if name in names:
                yield Found(cluster.owner, f"{path}.groupName", f"none of {sorted(names)}", name)
            names.add(str(name))
            sizes = [group.get(key) for key in ("minReplicas", "replicas", "maxReplicas")]
            if None in sizes or sizes != sorted(sizes):  # type: ignore[type-var]
                expected = "minReplicas <= replicas <= maxReplicas, all set"
                reason = "maxReplicas is 2147483647 by default"
                yield Found(cluster.owner, path, expected, sizes, reason)
        head = (f"{cluster.path}.headGroupSpec", cluster.spec.get("headGroupSpec") or {})
        for path, group in (head, *cluster.workers):
            stated = (group.get("rayStartParams") or {}) | {"resources": group.get("resources")}
            if path == head[0] and stated.get("num-cpus") == "0":
                del stated["num-cpus"]
            for key in ("num-cpus", "num-gpus", "memory", "resources"):
                if stated.get(key):
                    where = f"{path}.{'' if key == 'resources' else 'rayStartParams.'}{key}"
                    reason = "Ray takes them from the container"
                    yield Found(cluster.owner, where, "nothing", stated[key], reason)


def memory_is_guaranteed(docs: list[Doc]) -> Iterator[Found]:
    """Check requests, limits and the object store, which needs a mount and counts as memory."""
    for pod in _ray_pods(docs):
        limit, request = (
            dig(pod.ray, f"resources.{kind}.memory") for kind in ("limits", "requests")
        )
        if quantity(limit) != quantity(request):
            path = f"{pod.path}.spec.containers[0].resources.requests.memory"
            yield Found(pod.owner, path, f"the limit, {limit}", request, "Ray plans with the limit")
        store = dig(pod.mounts.get("/dev/shm"), "emptyDir")
        size = quantity(dig(store, "sizeLimit"))
        if dig(store, "medium") != "Memory" or not size or size >= (quantity(limit) or size + 1):
            expected = "an emptyDir at /dev/shm, medium Memory, sizeLimit below the memory limit"
            reason = "/dev/shm holds the object store and is 64 MiB by default"
            yield Found(pod.owner, f"{pod.path}.spec.volumes", expected, store, reason)


def pods_stop_cleanly(docs: list[Doc]) -> Iterator[Found]:
    """Check that `ray stop` runs before the container ends, and has the time."""
    for pod in _ray_pods(docs):
        hook = " ".join(dig(pod.ray, "lifecycle.preStop.exec.command") or [])
        if "ray stop" not in hook:
            path = f"{pod.path}.spec.containers[0].lifecycle.preStop"
            reason = "the shell above `ray start` passes no signals on"
            yield Found(pod.owner, path, "a command with `ray stop`", hook or None, reason)
        least = _SHORTEST_GRACE_S + int(environment(docs, pod.ray).get(_WAIT, 0))
        grace = pod.spec.get("terminationGracePeriodSeconds")
        if (grace or 0) < least:
            path = f"{pod.path}.spec.terminationGracePeriodSeconds"
            yield Found(pod.owner, path, f"at least {least}", grace, "jobs commit their work")


def gpu_nodes_are_tolerated(docs: list[Doc]) -> Iterator[Found]:
    """Check that pods with GPUs tolerate the taint of GPU nodes."""
    for pod in _ray_pods(docs):
        keys = [each.get("key") for each in pod.spec.get("tolerations") or []]
        limits = dig(pod.ray, "resources.limits") or {}
        if "nvidia.com/gpu" in limits and "nvidia.com/gpu" not in keys:
            reason = "the pod would wait forever"
            path = f"{pod.path}.spec.tolerations"
            yield Found(pod.owner, path, "one for nvidia.com/gpu", keys, reason)


def references_exist(docs: list[Doc]) -> Iterator[Found]:
    """Check what pods name: accounts, ConfigMaps, Secrets, claims, and volumes that they mount."""
    available = {(doc.get("kind"), dig(doc, "metadata.name")) for doc in docs} | _EXTERNAL
    for pod in all_pods(docs):
        path = f"{pod.path}.spec"
        name = pod.spec.get("serviceAccountName")
        account = (f"{path}.serviceAccountName", "ServiceAccount", name)
        for where, kind, name in (account, *_references(pod.spec, path)):
            if (kind, name) not in available:
                expected = f"a {kind} of the rendering or a known external one"
                yield Found(pod.owner, where, expected, name, "the pod would never start")
        for where, container in pod.containers:
            for i, mount in enumerate(container.get("volumeMounts") or []):
                at, name = f"{where}.volumeMounts[{i}].name", mount.get("name")
                if name not in pod.volumes:
                    yield Found(pod.owner, at, f"one of the volumes {[*pod.volumes]}", name)
                sources = dig(pod.volumes.get(name), "projected.sources") or []
                if any("serviceAccountToken" in source for source in sources):
                    reason = "jobs' code runs here, and only the autoscaler needs Kubernetes"
                    yield Found(pod.owner, at, "no token of Kubernetes", name, reason)


def one_namespace(docs: list[Doc]) -> Iterator[Found]:
    """Check that every object names the namespace; kubectl would put it into the current one."""
    own = [dig(doc, "metadata.name") for doc in of_kind(docs, "Namespace")]
    for doc in docs:
        namespace = dig(doc, "metadata.namespace")
        if doc.get("kind") != "Namespace" and namespace not in own:
            yield Found(doc, "metadata.namespace", f"one of {own}", namespace)


def secrets_are_references(docs: list[Doc]) -> Iterator[Found]:
    """Check that no manifest holds a secret: what is committed is known to all readers."""
    for doc in docs:
        if doc.get("kind") == "Secret":
            yield Found(doc, "data", "no Secret among the manifests", "a Secret")
        for path, name, value in _literals(doc, ""):
            if _SECRET_NAME.search(name.upper()) or _SECRET_VALUE.search(value):
                yield Found(doc, path, f"a secretKeyRef for {name}", "a value")


def ports_are_closed(docs: list[Doc]) -> Iterator[Found]:
    """Check who reaches Ray's pods: themselves, and selected pods on dashboard and metrics.

    The operator and a job's submitter need the dashboard's port, or a job waits for its deadline.
    """
    submitting = {id(pod.owner): pod.labels for pod in submitters(docs)}
    for cluster in clusters(docs):
        for pod in cluster.pods:
            if not _policies(docs, pod):
                path, expected = f"{pod.path}.metadata.labels", "a NetworkPolicy for Ingress"
                reason = "a pod that no policy selects is open to all"
                yield Found(pod.owner, path, f"labels selected by {expected}", pod.labels, reason)
        head = cluster.pods[0]
        peers = []
        for policy in _policies(docs, head):
            for i, entry in enumerate(dig(policy, "spec.ingress") or []):
                ports = [port.get("port") for port in entry.get("ports") or []]
                for peer in entry.get("from") or [{}]:
                    own = [*peer] == ["podSelector"] and _selects(peer["podSelector"], head.labels)
                    named = dig(peer, "podSelector.matchLabels") and "ipBlock" not in peer
                    if not (own or (named and ports in ([_DASHBOARD], [_METRICS]))):
                        found = {"from": peer, "ports": ports}
                        expected = f"Ray's own pods, or labels for port {_DASHBOARD} or {_METRICS}"
                        yield Found(policy, f"spec.ingress[{i}].from", expected, found)
                    if _DASHBOARD in ports:
                        peers.append(peer)
        clients = [("the KubeRay operator", _OPERATOR, True)]
        if id(cluster.owner) in submitting:
            clients.append(("the submitter", submitting[id(cluster.owner)], False))
        for who, labels, elsewhere in clients:
            if not any(
                _selects(peer.get("podSelector"), labels)
                and ("namespaceSelector" in peer) == elsewhere
                for peer in peers
            ):
                expected = f"a NetworkPolicy that lets {who} reach port {_DASHBOARD}"
                selected = [name_of(policy) for policy in _policies(docs, head)]
                yield Found(cluster.owner, f"{head.path}.metadata.labels", expected, selected)


def jobs_can_resume(docs: list[Doc]) -> Iterator[Found]:
    """Check entrypoints: known variables, an existing config, and outputs that outlive the pods.

    KubeRay copies the entrypoint unquoted into the submitter's shell (common/job.go).
    """
    heads = {id(cluster.owner): cluster.pods[0] for cluster in clusters(docs)}
    for submitter in submitters(docs):
        doc, path = submitter.owner, "spec.entrypoint"
        head = heads.get(id(doc))
        if head is None:
            continue
        entrypoint, known = str(dig(doc, path) or ""), environment(docs, submitter.ray)
        try:
            words = shlex.split(Template(entrypoint).substitute(known))
        except (KeyError, ValueError) as error:
            expected = f"only variables of the submitter: {sorted(known)}"
            found = f"${error.args[0]}" if isinstance(error, KeyError) else entrypoint
            yield Found(doc, path, expected, found, "the shell replaces others with nothing")
            continue
        options = [*itertools.pairwise(words)]
        config = next((value for option, value in options if option == "--config"), None)
        files = sorted(
            f"{folder}/{name}"
            for folder, volume in head.mounts.items()
            for name in config_map(docs, dig(volume, "configMap.name"))
        )
        if not re.match(r"python jobs/\w+\.py ", entrypoint) or config is None:
            yield Found(doc, path, "python jobs/NAME.py --config FILE ...", entrypoint)
        elif config not in files:
            yield Found(doc, path, f"--config with one of {files}", config)
        claims = [path for path, volume in head.mounts.items() if "persistentVolumeClaim" in volume]
        outputs = [
            value.split("=", 1)[1]
            for option, value in options
            if option == "--set" and value.startswith(("store=", "output="))
        ]
        lasting = ("s3://", *(f"{claim.rstrip('/')}/" for claim in claims))
        if not outputs or not all(output.startswith(lasting) for output in outputs):
            expected = f"--set store= or output= on s3:// or below a mounted claim {claims}"
            reason = "a retry is a new cluster"
            yield Found(doc, path, expected, outputs or None, reason)


RULES: Final = (
    fields_are_set,
    groups_are_distinct_and_bounded,
    memory_is_guaranteed,
    pods_stop_cleanly,
    gpu_nodes_are_tolerated,
    references_exist,
    one_namespace,
    secrets_are_references,
    ports_are_closed,
    jobs_can_resume,
)


def _scopes(docs: list[Doc]) -> Iterator[tuple[str, Doc, str, Any]]:
    """Yield (scope, object, prefix of paths, value) for each row of `FIELDS` to look at."""
    for doc in docs:
        yield str(doc.get("kind")), doc, "", doc
    for cluster in clusters(docs):
        yield "cluster", cluster.owner, f"{cluster.path}.", cluster.spec
        if cluster.spec.get("enableInTreeAutoscaling"):
            yield "autoscaled", cluster.owner, f"{cluster.path}.", cluster.spec
            options = cluster.spec.get("autoscalerOptions") or {}
            image = {"image": cluster.pods[0].ray.get("image")}  # the default
            yield "container", cluster.owner, f"{cluster.path}.autoscalerOptions.", image | options
    for pod in all_pods(docs):
        yield "pod", pod.owner, f"{pod.path}.", pod.template
        for path, container in pod.containers:
            yield "container", pod.owner, f"{path}.", container


def _ray_pods(docs: list[Doc]) -> Iterator[Pod]:
    return (pod for cluster in clusters(docs) for pod in cluster.pods)


def _policies(docs: list[Doc], pod: Pod) -> list[Doc]:
    """Return the policies for incoming traffic that select a pod."""
    namespace = dig(pod.owner, "metadata.namespace")
    return [
        policy
        for policy in of_kind(docs, "NetworkPolicy")
        if "Ingress" in (dig(policy, "spec.policyTypes") or [])
        and dig(policy, "metadata.namespace") == namespace
        and _selects(dig(policy, "spec.podSelector"), pod.labels)
    ]


def _selects(selector: Doc | None, labels: dict[str, str]) -> bool:
    """Return whether a selector matches; one with expressions counts as matching nothing."""
    if selector is None or not set(selector) <= {"matchLabels"}:
        return False
    return (selector.get("matchLabels") or {}).items() <= labels.items()


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every mapping inside a value with its path, outermost first."""
    if isinstance(value, dict):
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items:
        if isinstance(each, dict | list):
            step = f".{key}" if isinstance(value, dict) else f"[{key}]"
            yield from _leaves(each, f"{path}{step}")


def _references(spec: Doc, path: str) -> Iterator[tuple[str, str, Any]]:
    """Yield (path, kind, name) for what a pod's spec refers to, optional or not."""
    for where, mapping in _leaves(spec, path):
        for key in mapping.keys() & _REFERENCES.keys():
            names = mapping[key] if isinstance(mapping[key], dict) else {}
            name = names.get("name") or names.get("secretName") or names.get("claimName")
            yield f"{where}.{key}", _REFERENCES[key], name


def _literals(doc: Doc, path: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path, name, text) for every literal variable and entry of `data`."""
    for where, mapping in _leaves(doc, path):
        if where == ".data":
            entries = [(key, key, text) for key, text in mapping.items()]
        else:
            entries = [("value", mapping.get("name"), mapping.get("value"))]
        for key, name, text in entries:
            if isinstance(name, str) and isinstance(text, str):
                yield f"{where}.{key}".lstrip("."), name, text
