"""Ray clusters: names, sizes, the autoscaler, the token."""

import re
from collections.abc import Iterator
from typing import Final

from rules.findings import Breach, rule
from rules.manifests import Doc, clusters, dig, of_kind, quantity, ray_pods

_LONGEST: Final = {"RayJob": 47, "RayCluster": 53}
_DNS_1035: Final = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_OLDEST_RAY_WITH_TOKENS: Final = (2, 52)
_AUTOSCALER_V2: Final = "RAY_enable_autoscaler_v2"


@rule("KubeRay utils/validation.go, ValidateRayJobMetadata and ValidateRayClusterMetadata.")
def names_fit(docs: list[Doc]) -> Iterator[Breach]:
    """KubeRay makes names of services and pods from these, and refuses what would not fit."""
    for kind, longest in _LONGEST.items():
        for doc in of_kind(docs, kind):
            name = str(dig(doc, "metadata", "name"))
            if len(name) > longest or not re.fullmatch(_DNS_1035, name):
                expected = f"a DNS-1035 label of at most {longest} characters"
                yield doc, "metadata.name", expected, name


@rule("The label ray.io/group of KubeRay's pods; Kueue raycluster_webhook.go for `head`.")
def groups_are_named(docs: list[Doc]) -> Iterator[Breach]:
    """A group's name becomes a label and part of pod names, and tells groups apart."""
    expected = "a DNS-1035 label of at most 63 characters, used once, not reserved"
    for cluster in clusters(docs):
        taken = {"head", "headgroup", "submitter"}
        for place, group in cluster.groups[1:]:
            name = str(group.get("groupName"))
            if len(name) > 63 or not re.fullmatch(_DNS_1035, name) or name in taken:
                yield cluster.owner, f"{place}.groupName", expected, name
            taken.add(name)


@rule("KubeRay utils/validation.go, validateRayGroupResources; common/pod.go fills them in.")
def resources_stated_once(docs: list[Doc]) -> Iterator[Breach]:
    """Ray is told what the container has; a second statement can only contradict it."""
    for cluster in clusters(docs):
        for i, (place, group) in enumerate(cluster.groups):
            for key in ("num-cpus", "num-gpus", "memory", "resources"):
                value = dig(group, "rayStartParams", key)
                if value is not None and not (i == 0 and (key, value) == ("num-cpus", "0")):
                    expected = 'nothing (or num-cpus "0" of the head)'
                    yield cluster.owner, f"{place}.rayStartParams.{key}", expected, value
            if group.get("resources"):
                expected = "nothing: the container's resources say it"
                yield cluster.owner, f"{place}.resources", expected, group["resources"]


@rule("Ray docs, KubeRay best practices: memory requests equal limits.")
def memory_is_guaranteed(docs: list[Doc]) -> Iterator[Breach]:
    """Ray plans with the limit; a node that promised less kills pods when it is used."""
    for cluster in clusters(docs):
        for pod in ray_pods(cluster):
            limit = dig(pod.box, "resources", "limits", "memory")
            request = dig(pod.box, "resources", "requests", "memory")
            if limit is None or quantity(limit) != quantity(request):
                expected = f"the limit, {limit}" if limit else "a memory limit and the same request"
                place = f"{pod.place}.spec.containers[0].resources.requests.memory"
                yield pod.owner, place, expected, request


@rule("Ray docs, object store: /dev/shm; KubeRay common/pod.go, addEmptyDir.")
def object_store_has_memory(docs: list[Doc]) -> Iterator[Breach]:
    """The object store lives in /dev/shm, which is 64 MiB unless mounted, and counts as memory."""
    expected = (
        "an emptyDir at /dev/shm of medium Memory, its sizeLimit below the container's memory"
    )
    for cluster in clusters(docs):
        for pod in ray_pods(cluster):
            mounts = pod.box.get("volumeMounts") or []
            name = next((m.get("name") for m in mounts if m.get("mountPath") == "/dev/shm"), None)
            volumes = pod.spec.get("volumes") or []
            volume = next((v.get("emptyDir") for v in volumes if v.get("name") == name), None)
            size = quantity(dig(volume, "sizeLimit"))
            memory = quantity(dig(pod.box, "resources", "limits", "memory"))
            if dig(volume, "medium") != "Memory" or not size or (memory and size >= memory):
                yield pod.owner, f"{pod.place}.spec.volumes", expected, volume


@rule("The defaults in the CRD; Ray docs, KubeRay autoscaling.")
def replicas_within_bounds(docs: list[Doc]) -> Iterator[Breach]:
    """The autoscaler keeps to the bounds, of which the upper one is 2,147,483,647 if not given."""
    expected = "minReplicas <= replicas <= maxReplicas, all three given"
    for cluster in clusters(docs):
        for place, group in cluster.groups[1:]:
            sizes = [group.get(key) for key in ("minReplicas", "replicas", "maxReplicas")]
            given = [size for size in sizes if isinstance(size, int)]
            if len(given) < len(sizes) or given != sorted(given):
                yield cluster.owner, place, expected, sizes


@rule("KubeRay utils/validation.go, ValidateRayClusterSpec; Ray docs, autoscaler v2.")
def autoscaler_is_v2(docs: list[Doc]) -> Iterator[Breach]:
    """Version 2 is asked for in one place, needs pods that do not restart, and a free head."""
    for cluster in clusters(docs):
        if not cluster.spec.get("enableInTreeAutoscaling"):
            continue
        version = dig(cluster.spec, "autoscalerOptions", "version")
        if version != "v2":
            yield cluster.owner, f"{cluster.place}.autoscalerOptions.version", "v2", version
        head = dig(cluster.spec, "headGroupSpec", "rayStartParams", "num-cpus")
        if head != "0":
            place = f"{cluster.place}.headGroupSpec.rayStartParams.num-cpus"
            yield cluster.owner, place, '"0"', head
        for pod in ray_pods(cluster):
            policy = pod.spec.get("restartPolicy")
            if policy not in {None, "Never"}:
                yield cluster.owner, f"{pod.place}.spec.restartPolicy", "Never, or unset", policy
            if _AUTOSCALER_V2 in [entry.get("name") for entry in pod.box.get("env") or []]:
                place = f"{pod.place}.spec.containers[0].env"
                yield cluster.owner, place, f"no {_AUTOSCALER_V2}", _AUTOSCALER_V2
        for place, group in cluster.groups[1:]:
            if group.get("suspend"):
                yield cluster.owner, f"{place}.suspend", "unset", group["suspend"]


@rule("Ray docs, token authentication (Ray 2.52, KubeRay 1.5.1); KubeRay utils/validation.go.")
def token_is_asked_for(docs: list[Doc]) -> Iterator[Breach]:
    """Whoever reaches the job server runs code as the cluster; the token is what stops them."""
    for cluster in clusters(docs):
        mode = dig(cluster.spec, "authOptions", "mode")
        if mode != "token":
            yield cluster.owner, f"{cluster.place}.authOptions.mode", "token", mode
        version = cluster.spec.get("rayVersion")
        numbers = re.match(r"(\d+)\.(\d+)\.", str(version))
        if not numbers or (int(numbers[1]), int(numbers[2])) < _OLDEST_RAY_WITH_TOKENS:
            yield cluster.owner, f"{cluster.place}.rayVersion", "2.52.0 or later", version


@rule("Kubernetes docs, taints; the GPU device plugins' own taint.")
def gpu_nodes_are_tolerated(docs: list[Doc]) -> Iterator[Breach]:
    """GPU nodes are tainted; a pod without the toleration waits for ever."""
    for cluster in clusters(docs):
        for pod in ray_pods(cluster):
            wants = dig(pod.box, "resources", "limits", "nvidia.com/gpu")
            keys = [each.get("key") for each in pod.spec.get("tolerations") or []]
            if wants and "nvidia.com/gpu" not in keys:
                yield pod.owner, f"{pod.place}.spec.tolerations", "one for nvidia.com/gpu", keys
