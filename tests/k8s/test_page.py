"""The commands, names and numbers of docs/kubernetes.md."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from check import ROOT
from documents import blocks
from manifests import Doc, clusters, of_kind

PAGE = (ROOT / "docs/kubernetes.md").read_text()
BLOCKS = [block.text for block in blocks(ROOT / "docs/kubernetes.md") if block.language == "bash"]
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
OFFLINE = [line for line in COMMANDS if line.startswith(("kubectl kustomize", "python "))]
HOURS = {"extract": 72, "tune": 72, "train": 24, "backtest": 6}
QUEUE = "kueue.x-k8s.io/queue-name"
Rendered = Callable[[str, str], list[Doc]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def docs(rendered: Rendered) -> list[Doc]:
    return rendered("overlays/local", "storage-pvc")


def test_commands_that_need_no_cluster_run_as_written(docs: list[Doc]) -> None:
    assert len(OFFLINE) == 2
    own = Path(sys.executable).parent
    for command in OFFLINE:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=ROOT,
            env=os.environ | {"PATH": f"{own}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"{len(docs)} objects, 0 findings" in done.stdout or "kind: RayJob" in done.stdout


def test_folders_of_the_page_render(rendered: Rendered) -> None:
    folders = set(re.findall(r"k8s/(overlays/\w+)`", PAGE))
    assert folders == {f"overlays/{path.name}" for path in (ROOT / "k8s/overlays").iterdir()}
    applied = set(re.findall(r"(?:kustomize|apply -k|delete -k) k8s/(\S+?)[`\s]", PAGE))
    assert applied <= folders
    assert all(rendered(folder, "storage-pvc") for folder in folders)


def test_jobs_and_secrets_are_named_as_in_the_manifests(docs: list[Doc]) -> None:
    jobs = {doc["metadata"]["name"] for doc in of_kind(docs, "RayJob")}
    named = {job for command in COMMANDS for job in re.findall(r"(?:rayjob |job/)(\w+)", command)}
    assert named
    assert named <= jobs
    (cluster,) = of_kind(docs, "RayCluster")
    assert f"service/{cluster['metadata']['name']}-head-svc" in PAGE
    assert f"get secret {cluster['metadata']['name']} " in PAGE
    for _, group in next(clusters(docs)).workers:
        (secret,) = [
            source["secretRef"]["name"]
            for source in group["template"]["spec"]["containers"][0]["envFrom"]
            if "secretRef" in source
        ]
        assert f"create secret generic {secret} " in PAGE


def test_selectors_of_the_kueue_commands_split_the_overlay(rendered: Rendered) -> None:
    docs = rendered("overlays/kueue", "storage-s3")
    labels = [doc["metadata"].get("labels") or {} for doc in docs]
    shared = [doc for doc, own in zip(docs, labels, strict=True) if QUEUE not in own]
    assert f"-l '!{QUEUE}'" in PAGE
    assert not of_kind(shared, "RayJob")
    component = re.search(r"-l (app\S+)=(\w+)", PAGE)
    assert component
    picked = [
        doc for doc, own in zip(docs, labels, strict=True) if own.get(component[1]) == component[2]
    ]
    assert [doc["metadata"]["name"] for doc in picked] == [component[2]]


def test_deadlines_and_retries_are_those_of_the_manifests(docs: list[Doc]) -> None:
    specs = {doc["metadata"]["name"]: doc["spec"] for doc in of_kind(docs, "RayJob")}
    assert "(extract and tune three days, train one, backtest six hours)" in PAGE
    assert {name: spec["activeDeadlineSeconds"] // 3600 for name, spec in specs.items()} == HOURS
    assert {spec["backoffLimit"] for spec in specs.values()} == {3}
    assert "up to three times (`backoffLimit: 3`)" in PAGE
