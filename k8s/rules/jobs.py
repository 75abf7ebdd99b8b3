"""RayJobs: how they are submitted, retried, ended and queued."""

import itertools
import re
import shlex
from collections.abc import Iterator
from typing import Final

from rules.findings import Breach, rule
from rules.manifests import (
    Doc,
    Pod,
    clusters,
    config_map,
    dig,
    environment,
    of_kind,
    ray_pods,
    submitters,
)

_QUEUE: Final = "kueue.x-k8s.io/queue-name"
_MOST_GROUPS: Final = 7
_OUTPUTS: Final = ("store", "output")


@rule("KubeRay common/job.go; in the CRD the field is a free string.")
def submitted_by_a_kubernetes_job(docs: list[Doc]) -> Iterator[Breach]:
    """The job's log is then the log of a pod, where `kubectl logs` finds it."""
    for doc in of_kind(docs, "RayJob"):
        mode = dig(doc, "spec", "submissionMode")
        if mode != "K8sJobMode":
            yield doc, "spec.submissionMode", "K8sJobMode", mode


@rule("KubeRay utils/validation.go, validateDeletionConfiguration.")
def cluster_ends_with_its_job(docs: list[Doc]) -> Iterator[Breach]:
    """A cluster that stays costs money for nothing, and a ttl counts only when it is shut down."""
    for doc in of_kind(docs, "RayJob"):
        ends = dig(doc, "spec", "shutdownAfterJobFinishes")
        if ends is not True:
            yield doc, "spec.shutdownAfterJobFinishes", "true, which the ttl needs", ends
        ttl = dig(doc, "spec", "ttlSecondsAfterFinished")
        if not isinstance(ttl, int) or ttl < 0:
            yield doc, "spec.ttlSecondsAfterFinished", "seconds, 0 or more", ttl


@rule("KubeRay utils/validation.go, ValidateRayJobSpec.")
def has_a_deadline(docs: list[Doc]) -> Iterator[Breach]:
    """A job that hangs would hold its nodes for ever."""
    for doc in of_kind(docs, "RayJob"):
        deadline = dig(doc, "spec", "activeDeadlineSeconds")
        if not isinstance(deadline, int) or deadline <= 0:
            yield doc, "spec.activeDeadlineSeconds", "more than 0 seconds", deadline


@rule("KubeRay utils/validation.go, ValidateRayJobSpec; Kueue rayjob_webhook.go.")
def brings_its_own_cluster(docs: list[Doc]) -> Iterator[Breach]:
    """A job on a cluster chosen by label cannot be suspended, retried on a new one, or queued."""
    for doc in of_kind(docs, "RayJob"):
        if not dig(doc, "spec", "rayClusterSpec"):
            yield doc, "spec.rayClusterSpec", "a cluster", None
        chosen = dig(doc, "spec", "clusterSelector")
        if chosen:
            yield doc, "spec.clusterSelector", "nothing", chosen


@rule("KubeRay rayjob_controller.go, backoffLimit; our jobs resume from their output.")
def retries_resume(docs: list[Doc]) -> Iterator[Breach]:
    """A retry is a new cluster: it can go on only from a place that outlives the pods."""
    for submitter, head in _jobs(docs):
        doc = submitter.owner
        retries = dig(doc, "spec", "backoffLimit")
        if not isinstance(retries, int) or retries < 1:
            yield doc, "spec.backoffLimit", "1 or more: nodes are lost", retries
        places = _settings(docs, submitter)
        outputs = [places[key] for key in _OUTPUTS if key in places]
        lasting = _mounted_claims(head)
        kept = [p for p in outputs if p.startswith("s3://") or any(_below(p, m) for m in lasting)]
        if not outputs or len(kept) != len(outputs):
            expected = f"--set store= or output= on s3:// or below a mounted claim {lasting}"
            yield doc, "spec.entrypoint", expected, outputs or None


@rule("KubeRay common/job.go, BuildJobSubmitCommand: the entrypoint goes unquoted into a shell.")
def entrypoint_is_complete(docs: list[Doc]) -> Iterator[Breach]:
    """The submitter's shell fills in variables, unset ones with nothing."""
    for submitter, head in _jobs(docs):
        doc = submitter.owner
        entrypoint = str(dig(doc, "spec", "entrypoint") or "")
        known = environment(docs, submitter.box)
        for variable in sorted(set(re.findall(r"\$\{?(\w+)", entrypoint)) - set(known)):
            expected = f"only variables of the submitter: {sorted(known)}"
            yield doc, "spec.entrypoint", expected, f"${variable}"
        words = shlex.split(entrypoint)
        config = words[words.index("--config") + 1] if "--config" in words[:-1] else None
        if not re.match(r"python jobs/\w+\.py ", entrypoint) or config is None:
            yield doc, "spec.entrypoint", "python jobs/NAME.py --config FILE ...", entrypoint
        elif config not in (there := sorted(_config_files(docs, head))):
            yield doc, "spec.entrypoint", f"--config with one of {there}", config


@rule("Kueue rayjob_webhook.go and raycluster_webhook.go.")
def queued_jobs_suit_kueue(docs: list[Doc]) -> Iterator[Breach]:
    """Kueue starts a job by ending its suspension, and reserves its cluster as a whole."""
    queued = [doc for doc in docs if _QUEUE in (dig(doc, "metadata", "labels") or {})]
    for doc in of_kind(queued, "RayJob"):
        if dig(doc, "spec", "suspend") is not True:
            yield doc, "spec.suspend", "true, as it is queued", dig(doc, "spec", "suspend")
    for cluster in clusters(queued):
        scaled = cluster.spec.get("enableInTreeAutoscaling")
        if scaled:
            place = f"{cluster.place}.enableInTreeAutoscaling"
            yield cluster.owner, place, "false, as it is queued", scaled
        groups = cluster.groups[1:]
        if len(groups) > _MOST_GROUPS:
            expected = f"at most {_MOST_GROUPS} groups, as it is queued"
            yield cluster.owner, f"{cluster.place}.workerGroupSpecs", expected, len(groups)
        for place, group in groups:
            sizes = [group.get(key) for key in ("minReplicas", "replicas", "maxReplicas")]
            if len(set(sizes)) > 1:
                expected = "a fixed number of replicas, as it is queued"
                yield cluster.owner, place, expected, sizes


def _jobs(docs: list[Doc]) -> Iterator[tuple[Pod, Pod]]:
    """Submitter and head of each RayJob that has both."""
    heads = {id(c.owner): ray_pods(c)[0] for c in clusters(docs)}
    for submitter in submitters(docs):
        if id(submitter.owner) in heads:
            yield submitter, heads[id(submitter.owner)]


def _settings(docs: list[Doc], submitter: Pod) -> dict[str, str]:
    """The entrypoint's `--set` settings, variables filled in."""
    known = environment(docs, submitter.box)
    text = str(dig(submitter.owner, "spec", "entrypoint") or "")
    text = re.sub(r"\$\{?(\w+)\}?", lambda match: known.get(match[1], ""), text)
    pairs = [after for word, after in itertools.pairwise(shlex.split(text)) if word == "--set"]
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _mounted_claims(pod: Pod) -> list[str]:
    """Where the pod's first container mounts persistent volumes."""
    volumes = pod.spec.get("volumes") or []
    claims = {v.get("name") for v in volumes if v.get("persistentVolumeClaim")}
    mounts = pod.box.get("volumeMounts") or []
    return [mount["mountPath"] for mount in mounts if mount.get("name") in claims]


def _config_files(docs: list[Doc], pod: Pod) -> Iterator[str]:
    """Files that ConfigMaps put into the pod's first container."""
    names = {v.get("name"): dig(v, "configMap", "name") for v in pod.spec.get("volumes") or []}
    for mount in pod.box.get("volumeMounts") or []:
        for key in config_map(docs, names.get(mount.get("name"))) or {}:
            yield f"{mount['mountPath']}/{key}"


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")
