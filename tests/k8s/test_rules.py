"""Every rule finds what breaks it, and says where and what."""

import copy

import pytest
from check import main
from k8s_changes import put
from manifests import Doc
from rules import FIELDS, RULES, check_rules

pytestmark = pytest.mark.slow

JOB, POLICY = "RayJob/extract", "NetworkPolicy/extract"
CLUSTER = "spec.rayClusterSpec"
HEAD = f"{CLUSTER}.headGroupSpec"
HEAD_POD = f"{HEAD}.template.spec"
HEAD_BOX = f"{HEAD_POD}.containers[0]"
WORKERS = f"{CLUSTER}.workerGroupSpecs[0]"
WORKER_POD = f"{WORKERS}.template.spec"
WORKER_BOX = f"{WORKER_POD}.containers[0]"
SUBMITTER_BOX = "spec.submitterPodTemplate.spec.containers[0]"
CREDENTIAL = {"name": "AWS_SECRET_ACCESS_KEY", "value": "hunter2"}
OUTSIDE = {"ipBlock": {"cidr": "0.0.0.0/0"}}
ANYONE = {"namespaceSelector": {}, "podSelector": {}}
ENTRY = "python jobs/extract.py --config /etc/configs/extract.yaml --set "
TOKEN = {"name": "configs", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}

# Object, field, its new value (... removes it), what the finding says after the object
BREAKS = [
    ("Namespace/lab", "metadata.labels", ...,
     "metadata.labels: expected pod-security.kubernetes.io/enforce: restricted, found nothing"),
    (JOB, "spec.submissionMode", "SidecarMode",
     "spec.submissionMode: expected 'K8sJobMode', found 'SidecarMode' (`kubectl logs"),
    (JOB, "spec.shutdownAfterJobFinishes", False,
     "spec.shutdownAfterJobFinishes: expected True, found False (an idle cluster costs money)"),
    (JOB, "spec.activeDeadlineSeconds", ..., "expected a number of seconds, found nothing"),
    (JOB, "spec.backoffLimit", 0, "spec.backoffLimit: expected 1 or more, found 0"),
    (JOB, f"{CLUSTER}.authOptions.mode", "disabled", "expected 'token', found 'disabled'"),
    (JOB, f"{CLUSTER}.autoscalerOptions.version", "v1", "expected 'v2', found 'v1'"),
    (JOB, f"{HEAD}.rayStartParams.num-cpus", ..., "num-cpus: expected '0', found nothing"),
    (JOB, f"{WORKER_POD}.automountServiceAccountToken", ..., "expected False, found nothing"),
    (JOB, f"{HEAD_BOX}.image", "neuneu:latest",
     f"{HEAD_BOX}.image: expected a digest or a tag other than latest, found 'neuneu:latest'"),
    (JOB, f"{WORKER_BOX}.image", "neuneu", "found 'neuneu'"),
    (JOB, f"{CLUSTER}.autoscalerOptions.image", "ray:latest", "autoscalerOptions.image: expected"),
    (JOB, f"{SUBMITTER_BOX}.resources.limits.memory", ...,
     f"{SUBMITTER_BOX}.resources.limits.memory: expected an amount, found nothing"),
    (JOB, f"{HEAD_POD}.initContainers", [{"name": "fetch", "image": "a:1"}],
     f"{HEAD_POD}.initContainers[0].resources.requests.cpu: expected an amount, found nothing"),
    (JOB, f"{WORKERS}.groupName", "head",
     f"{WORKERS}.groupName: expected none of ['head', 'headgroup'], found 'head'"),
    (JOB, f"{WORKERS}.replicas", 5,
     f"{WORKERS}: expected minReplicas <= replicas <= maxReplicas, all set, found [0, 5, 4]"),
    (JOB, f"{WORKERS}.maxReplicas", ..., "found [0, 0, None] (maxReplicas is 2147483647 by"),
    (JOB, f"{WORKERS}.rayStartParams.num-gpus", "1",
     f"{WORKERS}.rayStartParams.num-gpus: expected nothing, found '1' (Ray takes them from"),
    (JOB, f"{WORKERS}.rayStartParams.num-cpus", "0", "found '0'"),
    (JOB, f"{HEAD}.rayStartParams.memory", "100", "found '100'"),
    (JOB, f"{WORKERS}.resources", {"CPU": "1"}, f"{WORKERS}.resources: expected nothing"),
    (JOB, f"{WORKER_BOX}.resources.requests.memory", "1Gi",
     f"{WORKER_BOX}.resources.requests.memory: expected the limit, 4Gi, found '1Gi'"),
    (JOB, f"{HEAD_POD}.volumes[0].emptyDir.medium", ...,
     f"{HEAD_POD}.volumes: expected an emptyDir at /dev/shm, medium Memory"),
    (JOB, f"{HEAD_POD}.volumes[0].emptyDir.sizeLimit", "4Gi", "4Gi"),
    (JOB, f"{HEAD_POD}.terminationGracePeriodSeconds", 60, "expected at least 90, found 60"),
    (JOB, f"{WORKER_BOX}.lifecycle", ..., "expected a command with `ray stop`, found nothing"),
    (JOB, f"{WORKER_POD}.tolerations", [], "expected one for nvidia.com/gpu, found []"),
    (JOB, f"{HEAD_POD}.serviceAccountName", "boss",
     f"{HEAD_POD}.serviceAccountName: expected a ServiceAccount of the rendering"),
    (JOB, f"{HEAD_POD}.volumes[2].persistentVolumeClaim.claimName", "disc",
     "volumes[2].persistentVolumeClaim: expected a PersistentVolumeClaim"),
    (JOB, f"{SUBMITTER_BOX}.envFrom[0]", {"secretRef": {"name": "keys"}},
     f"{SUBMITTER_BOX}.envFrom[0].secretRef: expected a Secret"),
    (JOB, f"{HEAD_POD}.volumes[1].configMap.name", "config", "found 'config'"),
    (JOB, f"{HEAD_BOX}.volumeMounts[2].name", "disc",
     f"{HEAD_BOX}.volumeMounts[2].name: expected one of the volumes ['shm', 'configs', 'disk']"),
    (JOB, f"{HEAD_POD}.volumes[1]", TOKEN, "expected no token of Kubernetes, found 'configs'"),
    (POLICY, "metadata.namespace", ..., "metadata.namespace: expected one of ['lab']"),
    (JOB, f"{HEAD_BOX}.env[0]", CREDENTIAL,
     f"{HEAD_BOX}.env[0].value: expected a secretKeyRef for AWS_SECRET_ACCESS_KEY, found 'a val"),
    ("ConfigMap/settings", "data.HF_TOKEN", "hunter2", "data.HF_TOKEN: expected a secretKeyRef"),
    ("ConfigMap/configs", "data.'extract.yaml'", "key: AKIA" + "Z" * 16, "data.extract.yaml: exp"),
    ("ConfigMap/configs", "kind", "Secret", "data: expected no Secret among the manifests"),
    (JOB, f"{WORKERS}.template.metadata.labels", {"cluster": "other"},
     "expected labels selected by a NetworkPolicy for Ingress, found {'cluster': 'other'}"),
    (POLICY, "spec.policyTypes", ["Egress"], "NetworkPolicy for Ingress"),
    (POLICY, "spec.ingress[0].from", [OUTSIDE],
     "spec.ingress[0].from: expected Ray's own pods, or labels for port 8265 or 8080, found"),
    (POLICY, "spec.ingress[0].from", ..., "found {'from': {}"),
    (POLICY, "spec.ingress[1].from[1]", ANYONE, "namespaceSelector"),
    (POLICY, "spec.ingress[1].ports[0].port", 10001, "[10001]"),
    (POLICY, "spec.ingress[1].from[1]", ...,
     f"{HEAD}.template.metadata.labels: expected a NetworkPolicy that lets the submitter reach "
     "port 8265, found ['NetworkPolicy/extract']"),
    (POLICY, "spec.ingress[1].from[0]", ..., "lets the KubeRay operator reach port 8265"),
    (JOB, "spec.entrypoint", ENTRY + "store=/tmp/store",
     "spec.entrypoint: expected --set store= or output= on s3:// or below a mounted claim "
     "['/data'], found ['/tmp/store'] (a retry is a new cluster)"),
    (JOB, "spec.entrypoint", ENTRY + "limit=5", "found nothing"),
    ("ConfigMap/settings", "data.DATA", "/scratch", "found ['/scratch/store']"),
    (JOB, "spec.entrypoint", ENTRY + "store=$DATA/store --set a=$B",
     "spec.entrypoint: expected only variables of the submitter: ['DATA'], found '$B'"),
    (JOB, "spec.entrypoint", ENTRY.replace("extract.yaml", "extracts.yaml") + "store=$DATA/store",
     "--config with one of ['/etc/configs/extract.yaml'], found '/etc/configs/extracts.yaml'"),
    (JOB, "spec.entrypoint", "neuneu extract --set store=$DATA/store",
     "expected python jobs/NAME.py --config FILE"),
]  # fmt: skip


def test_good_manifests_have_no_findings(good: list[Doc]) -> None:
    assert check_rules(good) == []


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: f"{broken[1]}={broken[2]}"[-60:])
def test_rule_broken_is_found(good: list[Doc], broken: tuple[str, str, object, str]) -> None:
    subject, path, value, message = broken
    put(good, subject, path, value)
    lines = [str(found) for found in check_rules(good)]
    assert any(message in line for line in lines), lines


def test_every_rule_is_broken_by_a_test(good: list[Doc]) -> None:
    rules, reasons = set(), set()
    for subject, path, value, _ in BREAKS:
        docs = copy.deepcopy(good)
        put(docs, subject, path, value)
        found = {rule: [each.reason for each in rule(docs)] for rule in RULES}
        rules |= {rule for rule, mine in found.items() if mine}
        reasons |= set(found[RULES[0]])
    assert rules == set(RULES)
    assert reasons == {reason for *_, reason in FIELDS}


def test_s3_needs_no_claim(good: list[Doc]) -> None:
    put(good, "ConfigMap/settings", "data.DATA", "s3://bucket/runs")
    put(good, JOB, f"{HEAD_POD}.volumes[2]", {"name": "disk", "emptyDir": {}})
    assert check_rules(good) == []


def test_main_without_a_folder_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: python k8s/check.py DIR..." in capsys.readouterr().err
