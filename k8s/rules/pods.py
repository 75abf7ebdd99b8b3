"""All pods: what they may do, what they run, how they end."""

import re
from collections.abc import Iterator
from typing import Final

from rules.findings import Breach, rule
from rules.manifests import Doc, all_pods, clusters, containers, dig, quantity, ray_pods

_SHORTEST_GRACE_S: Final = 30
_WAIT: Final = "RAY_JOB_STOP_WAIT_TIME_S"


@rule("Kubernetes docs, Pod Security Standards, profile restricted.")
def nothing_runs_as_root(docs: list[Doc]) -> Iterator[Breach]:
    """A way out of a container is worth little to a user without rights."""
    for owner, place, container, pod in containers(docs):
        for key, expected in (("runAsNonRoot", "true"), ("runAsUser", "a number above 0")):
            own = dig(container, "securityContext", key)
            value = own if own is not None else dig(pod, "securityContext", key)
            if not value:
                where = f"{place}.securityContext.{key}"
                yield owner, where, f"{expected}, here or of the pod", value


@rule("Kubernetes docs, Pod Security Standards, profile restricted.")
def nothing_gains_privileges(docs: list[Doc]) -> Iterator[Breach]:
    """No setuid program, capability or unfiltered system call makes root of a user."""
    for owner, place, container, pod in containers(docs):
        own = container.get("securityContext") or {}
        profile = ("seccompProfile", "type")
        seccomp = dig(own, *profile) or dig(pod, "securityContext", *profile)
        for key, expected, found, right in (
            ("allowPrivilegeEscalation", "false", escalates := own.get("allowPrivilegeEscalation"),
             escalates is False),
            ("privileged", "unset or false", own.get("privileged"), not own.get("privileged")),
            ("capabilities.drop", "['ALL']", dropped := dig(own, "capabilities", "drop"),
             dropped == ["ALL"]),
            ("capabilities.add", "nothing", added := dig(own, "capabilities", "add"), not added),
            ("seccompProfile.type", "RuntimeDefault", seccomp, seccomp == "RuntimeDefault"),
        ):  # fmt: skip
            if not right:
                yield owner, f"{place}.securityContext.{key}", expected, found


@rule("Kubernetes docs, Pod Security Standards, profile baseline.")
def nothing_of_the_host(docs: list[Doc]) -> Iterator[Breach]:
    """The host's network, processes and folders lead past every policy of the cluster."""
    for pod in all_pods(docs):
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield pod.owner, f"{pod.place}.spec.{key}", "unset", pod.spec[key]
        for i, volume in enumerate(pod.spec.get("volumes") or []):
            if "hostPath" in volume:
                place = f"{pod.place}.spec.volumes[{i}]"
                yield pod.owner, place, "no hostPath", volume["hostPath"]
        for place, container in pod.containers:
            for port in container.get("ports") or []:
                if port.get("hostPort"):
                    yield pod.owner, f"{place}.ports", "no hostPort", port["hostPort"]


@rule("Kubernetes docs, service accounts; Ray runs what jobs bring.")
def token_of_kubernetes_stays_out(docs: list[Doc]) -> Iterator[Breach]:
    """Jobs' code runs in these containers; the autoscaler alone talks to Kubernetes."""
    for pod in all_pods(docs):
        automatic = pod.spec.get("automountServiceAccountToken")
        if automatic is not False:
            place = f"{pod.place}.spec.automountServiceAccountToken"
            yield pod.owner, place, "false", automatic
        tokens = {
            volume.get("name")
            for volume in pod.spec.get("volumes") or []
            for source in dig(volume, "projected", "sources") or []
            if "serviceAccountToken" in source
        }
        for place, container in pod.containers:
            for mount in container.get("volumeMounts") or []:
                if mount.get("name") in tokens:
                    yield pod.owner, f"{place}.volumeMounts", "no token", mount["name"]


@rule("Kubernetes docs, images; Ray wants the same version on every node.")
def images_are_pinned(docs: list[Doc]) -> Iterator[Breach]:
    """A tag that moves gives head and workers different Rays on different days."""
    for owner, place, container, _ in containers(docs):
        image = container.get("image")
        if image is None and place.endswith("autoscalerOptions"):
            continue  # KubeRay takes the head's
        if not re.fullmatch(r".+(@sha256:[0-9a-f]{64}|:(?!latest$)[\w.-]+)", str(image)):
            yield owner, f"{place}.image", "a tag other than latest, or a digest", image


@rule("KubeRay common/job.go; Kueue counts requests.")
def resources_are_stated(docs: list[Doc]) -> Iterator[Breach]:
    """Without requests a pod is thrown out first; without limits Ray counts on the whole node."""
    for owner, place, container, _ in containers(docs):
        for kind in ("requests", "limits"):
            for what in ("cpu", "memory"):
                amount = dig(container, "resources", kind, what)
                if not quantity(amount):
                    yield owner, f"{place}.resources.{kind}.{what}", "an amount", amount


@rule("Kubernetes docs, pod lifecycle; Ray's job supervisor, RAY_JOB_STOP_WAIT_TIME_S.")
def ends_in_time(docs: list[Doc]) -> Iterator[Breach]:
    """`ray start` runs below a shell that passes no signal on: a hook has to, and needs time."""
    for cluster in clusters(docs):
        for pod in ray_pods(cluster):
            hook = " ".join(dig(pod.box, "lifecycle", "preStop", "exec", "command") or [])
            if "ray stop" not in hook:
                place = f"{pod.place}.spec.containers[0].lifecycle.preStop"
                yield pod.owner, place, "a command with `ray stop`", hook or None
            waits = [e.get("value") for e in pod.box.get("env") or [] if e.get("name") == _WAIT]
            least = _SHORTEST_GRACE_S + (int(waits[0]) if waits else 0)
            grace = pod.spec.get("terminationGracePeriodSeconds")
            if not isinstance(grace, int) or grace < least:
                place = f"{pod.place}.spec.terminationGracePeriodSeconds"
                yield pod.owner, place, f"at least {least}", grace
