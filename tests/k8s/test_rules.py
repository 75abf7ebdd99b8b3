"""Every rule of the checker finds what breaks it, and says where and what."""

import pytest
from check import main
from k8s_changes import put
from rules import RULES, check_rules
from rules.manifests import Doc

pytestmark = pytest.mark.slow

JOB, POLICY = "RayJob/extract", "NetworkPolicy/extract"
CLUSTER = "spec.rayClusterSpec"
HEAD = f"{CLUSTER}.headGroupSpec"
HEAD_POD = f"{HEAD}.template.spec"
HEAD_BOX = f"{HEAD_POD}.containers[0]"
WORKERS = f"{CLUSTER}.workerGroupSpecs[0]"
WORKER_POD = f"{WORKERS}.template.spec"
WORKER_BOX = f"{WORKER_POD}.containers[0]"
SUBMITTER = "spec.submitterPodTemplate"
SUBMITTER_BOX = f"{SUBMITTER}.spec.containers[0]"
CREDENTIAL = {"name": "AWS_SECRET_ACCESS_KEY", "value": "hunter2"}
OUTSIDE = {"ipBlock": {"cidr": "0.0.0.0/0"}}
ANYONE = {"namespaceSelector": {}, "podSelector": {}}
QUEUED = {"kueue.x-k8s.io/queue-name": "team"}
ENTRY = "python jobs/extract.py --config /etc/configs/extract.yaml --set "

# rule, object, what is changed to what (... removes it), the finding up to its reason
BREAKS = [
    ("names_fit", JOB, "metadata.name", "x" * 48,
     f"RayJob/{'x' * 48}: metadata.name: expected a DNS-1035 label of at most 47 characters, "
     "found"),
    ("names_fit", JOB, "metadata.name", "9lives", "found '9lives'"),
    ("groups_are_named", JOB, f"{WORKERS}.groupName", "GPU", f"{WORKERS}.groupName: expected"),
    ("groups_are_named", JOB, f"{WORKERS}.groupName", "head", "not reserved, found 'head'"),
    ("resources_stated_once", JOB, f"{WORKERS}.rayStartParams.num-gpus", "1",
     f"{JOB}: {WORKERS}.rayStartParams.num-gpus: expected nothing (or num-cpus \"0\" of the head), "
     "found '1'"),
    ("resources_stated_once", JOB, f"{WORKERS}.rayStartParams.num-cpus", "0", "found '0'"),
    ("resources_stated_once", JOB, f"{HEAD}.rayStartParams.memory", "100", "found '100'"),
    ("resources_stated_once", JOB, f"{WORKERS}.resources", {"CPU": "1"}, f"{WORKERS}.resources"),
    ("memory_is_guaranteed", JOB, f"{WORKER_BOX}.resources.requests.memory", "1Gi",
     f"{JOB}: {WORKER_BOX}.resources.requests.memory: expected the limit, 4Gi, found '1Gi'"),
    ("object_store_has_memory", JOB, f"{HEAD_POD}.volumes[0].emptyDir.medium", ...,
     f"{HEAD_POD}.volumes: expected an emptyDir at /dev/shm of medium Memory"),
    ("object_store_has_memory", JOB, f"{HEAD_POD}.volumes[0].emptyDir.sizeLimit", "4Gi", "4Gi"),
    ("replicas_within_bounds", JOB, f"{WORKERS}.replicas", 5,
     f"{JOB}: {WORKERS}: expected minReplicas <= replicas <= maxReplicas, all three given, "
     "found [0, 5, 4]"),
    ("replicas_within_bounds", JOB, f"{WORKERS}.maxReplicas", ..., "found [0, 0, None]"),
    ("autoscaler_is_v2", JOB, f"{CLUSTER}.autoscalerOptions.version", "v1",
     f"{JOB}: {CLUSTER}.autoscalerOptions.version: expected v2, found 'v1'"),
    ("autoscaler_is_v2", JOB, f"{HEAD}.rayStartParams.num-cpus", ...,
     f"{HEAD}.rayStartParams.num-cpus: expected \"0\", found nothing"),
    ("autoscaler_is_v2", JOB, f"{WORKER_POD}.restartPolicy", "Always", "Never, or unset"),
    ("autoscaler_is_v2", JOB, f"{HEAD_BOX}.env[0].name", "RAY_enable_autoscaler_v2", "expected no"),
    ("autoscaler_is_v2", JOB, f"{WORKERS}.suspend", True, f"{WORKERS}.suspend: expected unset"),
    ("token_is_asked_for", JOB, f"{CLUSTER}.authOptions.mode", "disabled",
     f"{JOB}: {CLUSTER}.authOptions.mode: expected token, found 'disabled'"),
    ("token_is_asked_for", JOB, f"{CLUSTER}.rayVersion", "2.49.0", "expected 2.52.0 or later"),
    ("gpu_nodes_are_tolerated", JOB, f"{WORKER_POD}.tolerations", [],
     f"{JOB}: {WORKER_POD}.tolerations: expected one for nvidia.com/gpu, found []"),
    ("submitted_by_a_kubernetes_job", JOB, "spec.submissionMode", "SidecarMode",
     f"{JOB}: spec.submissionMode: expected K8sJobMode, found 'SidecarMode'"),
    ("cluster_ends_with_its_job", JOB, "spec.shutdownAfterJobFinishes", False,
     f"{JOB}: spec.shutdownAfterJobFinishes: expected true, which the ttl needs, found False"),
    ("cluster_ends_with_its_job", JOB, "spec.ttlSecondsAfterFinished", -1, "found -1"),
    ("has_a_deadline", JOB, "spec.activeDeadlineSeconds", ...,
     f"{JOB}: spec.activeDeadlineSeconds: expected more than 0 seconds, found nothing"),
    ("brings_its_own_cluster", JOB, "spec.clusterSelector", {"ray.io/cluster": "mine"},
     f"{JOB}: spec.clusterSelector: expected nothing, found"),
    ("brings_its_own_cluster", JOB, "spec.rayClusterSpec", ...,
     "expected a cluster, found nothing"),
    ("retries_resume", JOB, "spec.backoffLimit", 0,
     f"{JOB}: spec.backoffLimit: expected 1 or more: nodes are lost, found 0"),
    ("retries_resume", JOB, "spec.entrypoint", ENTRY + "store=/tmp/store",
     f"{JOB}: spec.entrypoint: expected --set store= or output= on s3:// or below a mounted claim "
     "['/data'], found ['/tmp/store']"),
    ("retries_resume", JOB, "spec.entrypoint", ENTRY + "limit=5", "found nothing"),
    ("retries_resume", "ConfigMap/settings", "data.DATA", "/scratch", "found ['/scratch/store']"),
    ("entrypoint_is_complete", JOB, "spec.entrypoint", ENTRY + "store=$DATA/store --set a=$B",
     f"{JOB}: spec.entrypoint: expected only variables of the submitter: ['DATA'], found '$B'"),
    ("entrypoint_is_complete", JOB, "spec.entrypoint",
     "python jobs/extract.py --config /etc/configs/extracts.yaml --set store=$DATA/store",
     "--config with one of ['/etc/configs/extract.yaml'], found '/etc/configs/extracts.yaml'"),
    ("entrypoint_is_complete", JOB, "spec.entrypoint", "neuneu extract --set store=$DATA/store",
     "expected python jobs/NAME.py --config FILE"),
    ("queued_jobs_suit_kueue", JOB, "metadata.labels", QUEUED,
     f"{JOB}: {CLUSTER}.enableInTreeAutoscaling: expected false, as it is queued, found True"),
    ("nothing_runs_as_root", JOB, f"{SUBMITTER}.spec.securityContext.runAsNonRoot", ...,
     f"{JOB}: {SUBMITTER_BOX}.securityContext.runAsNonRoot: expected true, here or of the pod, "
     "found nothing"),
    ("nothing_runs_as_root", JOB, f"{HEAD_BOX}.securityContext.runAsUser", 0, "above 0"),
    ("nothing_runs_as_root", JOB, f"{WORKER_POD}.securityContext", {}, "runAsUser"),
    ("nothing_gains_privileges", JOB, f"{SUBMITTER_BOX}.securityContext.allowPrivilegeEscalation",
     ..., f"{SUBMITTER_BOX}.securityContext.allowPrivilegeEscalation: expected false"),
    ("nothing_gains_privileges", JOB, f"{CLUSTER}.autoscalerOptions.securityContext", ...,
     f"{CLUSTER}.autoscalerOptions.securityContext.allowPrivilegeEscalation: expected false"),
    ("nothing_gains_privileges", JOB, f"{HEAD_BOX}.securityContext.capabilities", {"add": ["X"]},
     f"{HEAD_BOX}.securityContext.capabilities.add: expected nothing, found ['X']"),
    ("nothing_gains_privileges", JOB, f"{HEAD_BOX}.securityContext.privileged", True, "privileged"),
    ("nothing_gains_privileges", JOB, f"{HEAD_POD}.securityContext.seccompProfile",
     {"type": "Unconfined"}, "seccompProfile.type: expected RuntimeDefault, found 'Unconfined'"),
    ("nothing_of_the_host", JOB, f"{WORKER_POD}.hostNetwork", True,
     f"{JOB}: {WORKER_POD}.hostNetwork: expected unset, found True"),
    ("nothing_of_the_host", JOB, f"{WORKER_POD}.volumes[0]",
     {"name": "shm", "hostPath": {"path": "/"}}, "expected no hostPath, found {'path': '/'}"),
    ("nothing_of_the_host", JOB, f"{HEAD_BOX}.ports",
     [{"containerPort": 8265, "hostPort": 8265}], "expected no hostPort, found 8265"),
    ("token_of_kubernetes_stays_out", JOB, f"{WORKER_POD}.automountServiceAccountToken", ...,
     f"{JOB}: {WORKER_POD}.automountServiceAccountToken: expected false, found nothing"),
    ("token_of_kubernetes_stays_out", JOB, f"{HEAD_POD}.volumes[1]",
     {"name": "configs", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
     f"{HEAD_BOX}.volumeMounts: expected no token, found 'configs'"),
    ("images_are_pinned", JOB, f"{HEAD_BOX}.image", "neuneu:latest",
     f"{JOB}: {HEAD_BOX}.image: expected a tag other than latest, or a digest, "
     "found 'neuneu:latest'"),
    ("images_are_pinned", JOB, f"{WORKER_BOX}.image", "neuneu", "found 'neuneu'"),
    ("images_are_pinned", JOB, f"{CLUSTER}.autoscalerOptions.image", "ray:latest", "autoscaler"),
    ("resources_are_stated", JOB, f"{SUBMITTER_BOX}.resources.limits.memory", ...,
     f"{JOB}: {SUBMITTER_BOX}.resources.limits.memory: expected an amount, found nothing"),
    ("resources_are_stated", JOB, f"{HEAD_POD}.initContainers",
     [{"name": "fetch", "image": "a:1", "securityContext":
       {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}],
     f"{HEAD_POD}.initContainers[0].resources.requests.cpu: expected an amount, found nothing"),
    ("ends_in_time", JOB, f"{HEAD_POD}.terminationGracePeriodSeconds", 60,
     f"{JOB}: {HEAD_POD}.terminationGracePeriodSeconds: expected at least 90, found 60"),
    ("ends_in_time", JOB, f"{WORKER_BOX}.lifecycle", ..., "expected a command with `ray stop`"),
    ("ray_pods_are_closed", JOB, f"{WORKERS}.template.metadata.labels", {"cluster": "other"},
     f"{JOB}: {WORKERS}.template.metadata.labels: expected labels that a NetworkPolicy for Ingress "
     "selects, found {'cluster': 'other'}"),
    ("ray_pods_are_closed", POLICY, "spec.policyTypes", ["Egress"], "NetworkPolicy for Ingress"),
    ("only_neighbours_come_in", POLICY, "spec.ingress[0].from", [OUTSIDE],
     f"{POLICY}: spec.ingress[0].from: expected Ray's own pods, or pods by their labels for port "
     "8265 or 8080 alone, found {'from': {'ipBlock'"),
    ("only_neighbours_come_in", POLICY, "spec.ingress[0].from", ..., "found {'from': {}"),
    ("only_neighbours_come_in", POLICY, "spec.ingress[1].from[1]", ANYONE, "namespaceSelector"),
    ("only_neighbours_come_in", POLICY, "spec.ingress[1].ports[0].port", 10001, "[10001]"),
    ("operator_and_submitter_come_in", POLICY, "spec.ingress[1].from[1]", ...,
     f"{JOB}: {HEAD}.template.metadata.labels: expected a NetworkPolicy that lets the submitter "
     "reach port 8265, found ['NetworkPolicy/extract']"),
    ("operator_and_submitter_come_in", POLICY, "spec.ingress[1].from[0]", ..., "the KubeRay oper"),
    ("kinds_are_known", "PersistentVolumeClaim/disk", "apiVersion", "v2",
     "PersistentVolumeClaim/disk: apiVersion: expected v1, found 'v2'"),
    ("kinds_are_known", "ServiceAccount/worker", "kind", "Robot", "expected of a kind among ["),
    ("names_are_unique", "ConfigMap/configs", "metadata.name", "settings",
     "ConfigMap/settings: metadata.name: expected one object of this name, found 2"),
    ("one_namespace", POLICY, "metadata.namespace", ...,
     f"{POLICY}: metadata.namespace: expected one of ['lab'], found nothing"),
    ("secrets_are_referred_to", JOB, f"{HEAD_BOX}.env[0]", CREDENTIAL,
     f"{JOB}: {HEAD_BOX}.env[0].value: expected a secretKeyRef for AWS_SECRET_ACCESS_KEY, found "
     "'a value'"),
    ("secrets_are_referred_to", "ConfigMap/settings", "data.HF_TOKEN", "hunter2", "data.HF_TOKEN"),
    ("secrets_are_referred_to", "ConfigMap/configs", "data.'extract.yaml'",
     "key: AKIA" + "Z" * 16, "data.extract.yaml: expected a secretKeyRef"),
    ("secrets_are_referred_to", "ConfigMap/configs", "kind", "Secret", "no Secret among"),
    ("references_exist", JOB, f"{HEAD_POD}.serviceAccountName", "boss",
     f"{JOB}: {HEAD_POD}.serviceAccountName: expected a ServiceAccount of the rendering, or "
     "a known other one, found 'boss'"),
    ("references_exist", JOB, f"{HEAD_POD}.volumes[2].persistentVolumeClaim.claimName", "disc",
     "volumes[2].persistentVolumeClaim: expected a PersistentVolumeClaim"),
    ("references_exist", JOB, f"{SUBMITTER_BOX}.envFrom[0]", {"secretRef": {"name": "keys"}},
     f"{SUBMITTER_BOX}.envFrom[0].secretRef: expected a Secret"),
    ("references_exist", JOB, f"{HEAD_POD}.volumes[1].configMap.name", "config", "found 'config'"),
    ("mounts_have_volumes", JOB, f"{HEAD_BOX}.volumeMounts[2].name", "disc",
     f"{JOB}: {HEAD_BOX}.volumeMounts[2].name: expected one of the volumes ['shm', 'configs', "
     "'disk'], found 'disc'"),
    ("mounts_have_volumes", JOB, f"{CLUSTER}.autoscalerOptions.volumeMounts",
     [{"name": "token", "mountPath": "/t"}], "autoscalerOptions.volumeMounts[0].name"),
]  # fmt: skip


def test_good_manifests_have_no_findings(good: list[Doc]) -> None:
    assert check_rules(good) == []


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: f"{broken[0]}: {broken[2]}")
def test_rule_broken_is_found(good: list[Doc], broken: tuple[str, str, str, object, str]) -> None:
    rule, subject, path, value, message = broken
    put(good, subject, path, value)
    lines = [str(finding) for finding in check_rules(good)]
    mine = [line for line in lines if f"({rule}: " in line]
    assert any(message in line for line in mine), lines


def test_every_rule_is_broken_by_a_test_and_says_why() -> None:
    assert {rule.name for rule in RULES} == {rule for rule, *_ in BREAKS}
    assert all(rule.reason.endswith(".") and rule.source for rule in RULES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec.suspend": False}, "spec.suspend: expected true, as it is queued, found False"),
        ({f"{WORKERS}.maxReplicas": 5}, "expected a fixed number of replicas, as it is queued"),
        ({f"{CLUSTER}.workerGroupSpecs": [{"groupName": f"g{i}"} for i in range(8)]},
         "expected at most 7 groups, as it is queued, found 8"),
    ],
)  # fmt: skip
def test_queued_job_that_kueue_would_refuse_is_found(
    good: list[Doc], changes: dict[str, object], message: str
) -> None:
    settled = {f"{CLUSTER}.enableInTreeAutoscaling": False, f"{WORKERS}.maxReplicas": 0}
    for path, value in ({"metadata.labels": QUEUED} | settled).items():
        put(good, JOB, path, value)
    assert check_rules(good) == []
    for path, value in changes.items():
        put(good, JOB, path, value)
    assert any(message in str(finding) for finding in check_rules(good))


def test_s3_needs_no_claim(good: list[Doc]) -> None:
    put(good, "ConfigMap/settings", "data.DATA", "s3://bucket/runs")
    put(good, JOB, f"{HEAD_POD}.volumes[2]", {"name": "disk", "emptyDir": {}})
    assert check_rules(good) == []


def test_main_without_a_folder_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: python k8s/check.py DIR..." in capsys.readouterr().err
