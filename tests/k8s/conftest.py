"""Renderings, each made once, and manifests to break."""

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml
from check import ROOT, kubectl, render, schema_folder
from manifests import Doc
from schemas import Schemas, load_schemas

HERE = Path(__file__).parent


@pytest.fixture
def good() -> list[Doc]:
    """Manifests without findings, to be changed."""
    docs = yaml.safe_load_all((HERE / "good.yaml").read_text())
    return json.loads(json.dumps(list(docs)))  # aliases of the YAML become copies


@pytest.fixture(scope="session")
def schemas() -> Schemas:
    """The schemas of KubeRay's CRDs; tests are skipped without them."""
    found = load_schemas(schema_folder())
    if not found:
        pytest.skip(f"no KubeRay schemas at {schema_folder()} (set NEUNEU_SHARED)")
    return found


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], list[Doc]]:
    """Return a function (folder, storage component) -> objects, rendered from a copy of k8s/."""
    if kubectl() is None:
        pytest.skip("kubectl, which renders the kustomizations, is missing")

    @cache
    def make(folder: str, storage: str) -> str:
        copy = tmp_path_factory.mktemp("k8s") / "k8s"
        shutil.copytree(ROOT / "k8s", copy, ignore=shutil.ignore_patterns("__pycache__", "*_cache"))
        for path in copy.rglob("kustomization.yaml"):
            text = re.sub(r"components/storage-\w+", f"components/{storage}", path.read_text())
            path.write_text(text)
        return json.dumps(render(copy / folder))

    return lambda folder, storage: json.loads(make(folder, storage))
