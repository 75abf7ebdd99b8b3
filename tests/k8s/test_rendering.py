"""Base and overlays render with both kinds of storage, pass the checks and fit together."""

import itertools
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

import pytest
from check import ROOT, check, kubectl, main
from manifests import (
    Doc,
    all_pods,
    clusters,
    config_map,
    dig,
    environment,
    of_kind,
    quantity,
    submitters,
)
from schemas import Schemas

from neuneu.core.config import load_config
from neuneu.evaluation.config import BacktestConfig
from neuneu.scoring.config import ExtractConfig
from neuneu.training.config import TrainConfig
from neuneu.training.tuning.run import TuneConfig

FOLDERS = ["base", "overlays/local", "overlays/gpu", "overlays/kueue"]
STORAGES = ["storage-pvc", "storage-s3"]
CONFIGS = {
    "extract": ExtractConfig, "train": TrainConfig, "tune": TuneConfig, "backtest": BacktestConfig,
}  # fmt: skip
Rendered = Callable[[str, str], list[Doc]]

pytestmark = pytest.mark.slow
every_folder = pytest.mark.parametrize("folder", FOLDERS)
every_storage = pytest.mark.parametrize("storage", STORAGES)


@every_folder
@every_storage
def test_rendering_satisfies_rules(rendered: Rendered, folder: str, storage: str) -> None:
    docs = rendered(folder, storage)
    assert check(docs, {}) == []
    assert {doc["metadata"]["name"] for doc in of_kind(docs, "RayJob")} == set(CONFIGS)
    assert all(job["spec"]["suspend"] for job in of_kind(docs, "RayJob")), "applying starts no job"
    assert len(of_kind(docs, "RayCluster")) == (folder != "overlays/kueue")


@pytest.mark.shared
@every_folder
@every_storage
def test_rendering_satisfies_schemas(
    rendered: Rendered, schemas: Schemas, folder: str, storage: str
) -> None:
    assert check(rendered(folder, storage), schemas) == []


@every_folder
@every_storage
def test_pods_satisfy_the_restricted_profile(rendered: Rendered, folder: str, storage: str) -> None:
    docs = rendered(folder, storage)
    autoscalers = [dig(cluster.spec, "autoscalerOptions") for cluster in clusters(docs)]
    boxes = [box for pod in all_pods(docs) for _, box in pod.containers]
    for box in (*filter(None, autoscalers), *boxes):
        security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert box["securityContext"] == security
    for pod in all_pods(docs):
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
        assert not any("hostPath" in volume for volume in pod.spec.get("volumes") or [])
        assert not any("hostPort" in p for _, box in pod.containers for p in box.get("ports", []))


def _loaded(docs: list[Doc], scratch: Path) -> dict[str, tuple[Any, dict[str, str]]]:
    """Return config and `--set` settings of each job by name, as its entrypoint loads them."""
    loaded = {}
    for submitter in submitters(docs):
        name = submitter.owner["metadata"]["name"]
        entrypoint = submitter.owner["spec"]["entrypoint"]
        words = shlex.split(Template(entrypoint).substitute(environment(docs, submitter.ray)))
        assert words[:2] == ["python", f"jobs/{name}.py"]
        assert (ROOT / words[1]).is_file()
        path = scratch / Path(words[words.index("--config") + 1]).name
        path.write_text(config_map(docs, "neuneu-jobs")[path.name])
        sets = [after for word, after in itertools.pairwise(words) if word == "--set"]
        settings = dict(each.split("=", 1) for each in sets)
        loaded[name] = (load_config(CONFIGS[name], path, sets), settings)
    return loaded


@every_folder
@every_storage
def test_job_configs_are_loadable_with_their_settings(
    rendered: Rendered, tmp_path: Path, folder: str, storage: str
) -> None:
    data = "/data" if storage == "storage-pvc" else "s3://neuneu"
    stores = {"extract": "store", "train": "store", "tune": "train.store", "backtest": "accuracies"}
    outputs = {"extract": "store", "train": "output", "tune": "output", "backtest": "output"}
    loaded = _loaded(rendered(folder, storage), tmp_path)
    assert loaded.keys() == CONFIGS.keys()
    for name, (config, settings) in loaded.items():
        assert settings[stores[name]] == f"{data}/store"
        if name in outputs:
            assert str(getattr(config, outputs[name])) == settings[outputs[name]]


@every_folder
def test_a_worker_of_each_training_fits_a_node(
    rendered: Rendered, tmp_path: Path, folder: str
) -> None:
    docs = rendered(folder, "storage-s3")
    loaded = _loaded(docs, tmp_path)
    trained = {"train": loaded["train"][0], "tune": loaded["tune"][0].base()}
    for cluster in clusters(docs):
        config = trained.get(cluster.owner["metadata"]["name"])
        if config is None:
            continue
        limits = [pod.ray["resources"]["limits"] for pod in cluster.pods[1:]]
        assert any(
            quantity(limit["cpu"]) >= config.cpus_per_worker
            and config.use_gpu == ("nvidia.com/gpu" in limit)
            for limit in limits
        )


@every_folder
def test_extraction_starts_with_the_workers_it_uses(
    rendered: Rendered, tmp_path: Path, folder: str
) -> None:
    docs = rendered(folder, "storage-s3")
    (cluster,) = [c for c in clusters(docs) if c.owner["metadata"]["name"] == "extract"]
    config, _ = _loaded(docs, tmp_path)["extract"]
    wants_gpus = config.gpus_per_actor is None
    assert any(
        group["minReplicas"] > 0
        and wants_gpus == ("nvidia.com/gpu" in pod.ray["resources"]["limits"])
        and quantity(pod.ray["resources"]["limits"]["cpu"]) >= config.cpus_per_actor
        for (_, group), pod in zip(cluster.workers, cluster.pods[1:], strict=True)
    )


def test_workers_scale_to_nothing_unless_queued(rendered: Rendered) -> None:
    for folder in FOLDERS[:3]:
        for cluster in clusters(rendered(folder, "storage-pvc")):
            if cluster.owner["metadata"]["name"] != "extract":
                assert all(group["minReplicas"] == 0 for _, group in cluster.workers)
    for cluster in clusters(rendered("overlays/kueue", "storage-pvc")):
        assert "enableInTreeAutoscaling" not in cluster.spec
        assert cluster.owner["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "neuneu"


@pytest.mark.parametrize(
    ("folder", "image"),
    zip(FOLDERS, ["neuneu", "neuneu", "neuneu-gpu", "neuneu-gpu"], strict=True),
)
def test_all_pods_run_one_image_with_the_ray_of_the_lock(
    rendered: Rendered, folder: str, image: str
) -> None:
    docs = rendered(folder, "storage-s3")
    images = {box["image"] for pod in all_pods(docs) for _, box in pod.containers}
    assert images == {f"{image}:0.1.0"}
    lock = (ROOT / "requirements/cpu.lock").read_text()
    (version,) = re.findall(r"^ray==(.+)$", lock, re.MULTILINE)
    assert {cluster.spec["rayVersion"] for cluster in clusters(docs)} == {version}


def test_local_overlay_fits_one_small_machine(rendered: Rendered) -> None:
    docs = rendered("overlays/local", "storage-pvc")
    by_name = {cluster.owner["metadata"]["name"]: cluster for cluster in clusters(docs)}
    for what, most in (("cpu", 4.0), ("memory", 14 * 2**30)):
        total = 0.0
        for name, replicas in (("neuneu", [1, 0]), ("extract", [1, 1])):
            cluster = by_name[name]
            total += quantity(dig(cluster.spec, f"autoscalerOptions.resources.requests.{what}"))
            for pod, count in zip(cluster.pods, replicas, strict=True):
                total += count * quantity(pod.ray["resources"]["requests"][what])
        submitter = next(submitters(docs)).ray
        assert total + quantity(submitter["resources"]["requests"][what]) <= most


def test_storage_components_differ_in_storage_alone(rendered: Rendered) -> None:
    kept, other = (rendered("overlays/gpu", storage) for storage in STORAGES)
    names = [{f"{doc['kind']}/{doc['metadata']['name']}" for doc in docs} for docs in (kept, other)]
    assert names[0] ^ names[1] == {"PersistentVolumeClaim/neuneu-data", "ConfigMap/neuneu-fetch"}
    for docs, claims in ((kept, {"neuneu-data"}), (other, set())):
        volumes = [v for pod in all_pods(docs) for v in pod.spec.get("volumes") or []]
        assert {dig(v, "persistentVolumeClaim.claimName") for v in volumes} - {None} == claims


def test_main_checks_folders_and_says_what_it_did_without_schemas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if kubectl() is None:
        pytest.skip("kubectl, which renders the kustomizations, is missing")
    monkeypatch.setenv("NEUNEU_SHARED", str(tmp_path))
    assert main([str(ROOT / "k8s/overlays/local")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"no KubeRay schemas at {tmp_path}/kuberay (set NEUNEU_SHARED): ")
    assert lines[1].endswith("13 objects, 0 findings")
    assert main([str(tmp_path)]) == 1
    assert "unable to find one of 'kustomization.yaml'" in capsys.readouterr().err


def test_main_without_kubectl_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("NEUNEU_SHARED", str(tmp_path))
    assert main(["k8s/base"]) == 1
    assert "kubectl not found" in capsys.readouterr().err
