"""Objects against CRD schemas: strict, and clear about place, expected and found."""

from pathlib import Path

import pytest
import yaml
from check import Schemas, check
from crd_schema import load_crd, strict_schema, validate
from k8s_changes import put
from rules.manifests import Doc

pytestmark = pytest.mark.slow

JOB = "RayJob/extract"
BOX = "spec.rayClusterSpec.headGroupSpec.template.spec.containers[0]"

CRD = yaml.safe_load(
    """
type: object
required: [spec]
properties:
  spec:
    type: object
    required: [size]
    properties:
      size: {type: integer, format: int32}
      port: {x-kubernetes-int-or-string: true, anyOf: [{type: integer}, {type: string}]}
      mode: {type: string, enum: [on, off]}
      free: {type: object, x-kubernetes-preserve-unknown-fields: true}
      labels: {type: object, additionalProperties: {type: string}}
      since: {type: string, nullable: true}
      empty: {type: object}
      ports:
        type: array
        x-kubernetes-list-map-keys: [number]
        items: {type: object, properties: {number: {type: integer}, name: {type: string}}}
""".replace("[on, off]", '["on", "off"]')
)


def _lines(spec: Doc, **more: object) -> list[str]:
    doc = {"apiVersion": "x/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": spec} | more
    return [str(finding) for finding in validate(doc, strict_schema(CRD))]


@pytest.mark.parametrize(
    "spec",
    [
        {"size": 3},
        {"size": 3, "port": 80},
        {"size": 3, "port": "http"},
        {"size": 3, "free": {"any": {"thing": 1}}, "labels": {"a": "b"}, "since": None},
        {"size": 3, "ports": [{"number": 1}, {"number": 2}]},
    ],
)
def test_valid_object_has_no_findings(spec: Doc) -> None:
    assert _lines(spec) == []


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"size": 3, "prot": 1},
         "Thing/t: spec.prot: expected a field that the schema knows such as 'port', found 1"),
        ({"size": 3, "empty": {"a": 1}},
         "Thing/t: spec.empty.a: expected a field that the schema knows, found 1"),
        ({"size": 3, "ports": [{"number": 1, "x": 2}]},
         "Thing/t: spec.ports[0].x: expected a field that the schema knows, found 2"),
        ({}, "Thing/t: spec.size: expected a value, which is required, found nothing"),
        ({"size": "3"}, "Thing/t: spec.size: expected integer, found '3'"),
        ({"size": True}, "Thing/t: spec.size: expected integer, found True"),
        ({"size": 3, "port": [1]}, "Thing/t: spec.port: expected integer or string, found [1]"),
        ({"size": 3, "labels": {"a": 1}}, "Thing/t: spec.labels.a: expected string, found 1"),
        ({"size": 3, "mode": "of"}, "Thing/t: spec.mode: expected one of ['on', 'off'], "
         "found 'of'"),
        ({"size": 2**31}, "Thing/t: spec.size: expected maximum 2147483647, found 2147483648"),
        ({"size": 3, "ports": [{"number": 1}, {"number": 1}]},
         "Thing/t: spec.ports[1]: expected another number than in the entries before, found '1'"),
    ],
)  # fmt: skip
def test_each_violation_is_found_in_one_line(spec: Doc, line: str) -> None:
    assert _lines(spec) == [line]


def test_metadata_is_checked_though_crds_leave_it_open() -> None:
    lines = _lines({"size": 1}, metadata={"name": "t", "lables": {}})
    assert lines == [
        "Thing/t: metadata.lables: expected a field that the schema knows such as 'labels', "
        "found {}"
    ]


def test_status_and_other_versions_come_from_the_file(tmp_path: Path) -> None:
    version = {"name": "v1", "served": True, "schema": {"openAPIV3Schema": CRD}}
    old = {"name": "v0", "served": False, "schema": {"openAPIV3Schema": CRD}}
    spec = {"group": "x", "names": {"kind": "Thing"}, "versions": [version, old]}
    (tmp_path / "crd.yaml").write_text(yaml.safe_dump({"spec": spec}))
    assert list(load_crd(tmp_path / "crd.yaml")) == [("x/v1", "Thing")]


@pytest.mark.shared
def test_good_manifests_satisfy_kuberay(good: list[Doc], schemas: Schemas) -> None:
    assert check(good, schemas) == []


@pytest.mark.shared
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec.shutdownAfterJobFinish", True,
         "spec.shutdownAfterJobFinish: expected a field that the schema knows such as "
         "'shutdownAfterJobFinishes', found True"),
        (f"{BOX}.imagePullpolicy", "Always", "such as 'imagePullPolicy', found 'Always'"),
        ("spec.rayClusterSpec.autoscalerOptions.versoin", "v2", "such as 'version', found 'v2'"),
        ("spec.backoffLimit", "3", "spec.backoffLimit: expected integer, found '3'"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0,
         "rayStartParams.num-cpus: expected string, found 0"),
        ("spec.rayClusterSpec.authOptions.mode", "tokens",
         "authOptions.mode: expected one of ['disabled', 'token'], found 'tokens'"),
        ("spec.rayClusterSpec.workerGroupSpecs[0].groupName", ...,
         "workerGroupSpecs[0].groupName: expected a value, which is required, found nothing"),
        (f"{BOX}.resources.limits.memory", [4],
         f"{BOX}.resources.limits.memory: expected integer or string, found [4]"),
        (f"{BOX}.ports", [{"containerPort": 1}, {"containerPort": 1}],
         f"{BOX}.ports[1]: expected another containerPort and protocol"),
    ],
)  # fmt: skip
def test_kuberay_schema_broken_is_found(
    good: list[Doc], schemas: Schemas, path: str, value: object, message: str
) -> None:
    put(good, JOB, path, value)
    lines = [str(finding) for finding in check(good, schemas)]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{JOB}: ")
    assert message in lines[0]
