"""Strict validation against CRD schemas, with path, expected and found in one line."""

from pathlib import Path

import pytest
import yaml
from check import check
from k8s_changes import put
from manifests import Doc
from schemas import Schemas, load_schemas, validate

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


GOOD = {"apiVersion": "x/v1", "kind": "Thing", "metadata": {"name": "t"}}


@pytest.fixture
def thing(tmp_path: Path) -> Doc:
    """The schema, loaded from a CRD file that also has a version that is not served."""
    versions = [
        {"name": name, "served": name == "v1", "schema": {"openAPIV3Schema": CRD}}
        for name in ("v0", "v1")
    ]
    spec = {"group": "x", "names": {"kind": "Thing"}, "versions": versions}
    (tmp_path / "crd.yaml").write_text(yaml.safe_dump({"spec": spec}))
    ((key, schema),) = load_schemas(tmp_path).items()
    assert key == ("x/v1", "Thing")
    return schema


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"port": 80},
        {"port": "http"},
        {"free": {"any": {"thing": 1}}, "labels": {"a": "b"}, "since": None},
        {"ports": [{"number": 1}, {"number": 2}]},
    ],
)
def test_valid_object_has_no_findings(thing: Doc, spec: Doc) -> None:
    assert list(validate(GOOD | {"spec": {"size": 3} | spec}, thing)) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"spec": {"size": 3, "prot": 1}}, "spec.prot: unknown field; did you mean 'port'?"),
        ({"spec": {"size": 3, "empty": {"a": 1}}}, "spec.empty.a: unknown field"),
        ({"spec": {"size": 3, "ports": [{"x": 2}]}}, "spec.ports[0].x: unknown field"),
        ({"spec": {}}, "spec: 'size' is a required property"),
        ({"spec": {"size": "3"}}, "spec.size: '3' is not of type 'integer'"),
        ({"spec": {"size": True}}, "spec.size: True is not of type 'integer'"),
        ({"spec": {"size": None}}, "spec.size: None is not of type 'integer'"),
        ({"spec": {"size": 3, "port": [1]}},
         "spec.port: [1] is not of type 'integer' and [1] is not of type 'string'"),
        ({"spec": {"size": 3, "labels": {"a": 1}}}, "spec.labels.a: 1 is not of type 'string'"),
        ({"spec": {"size": 3, "mode": "of"}}, "spec.mode: 'of' is not one of ['on', 'off']"),
        ({"spec": {"size": 2**31}}, "spec.size: 2147483648 does not fit int32"),
        ({"spec": {"size": 3, "ports": [{"number": 1}, {"number": 1}]}},
         "spec.ports: entries must differ in number: 1"),
        ({"spec": {"size": 1}, "metadata": {"name": "t", "lables": {}}},
         "metadata.lables: unknown field; did you mean 'labels'?"),
    ],
)  # fmt: skip
def test_each_violation_is_found_in_one_line(thing: Doc, change: Doc, line: str) -> None:
    assert list(validate(GOOD | change, thing)) == [f"Thing/t: {line}"]


@pytest.mark.shared
def test_good_manifests_satisfy_kuberay(good: list[Doc], schemas: Schemas) -> None:
    assert check(good, schemas) == []


@pytest.mark.shared
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec.shutdownAfterJobFinish", True,
         "spec.shutdownAfterJobFinish: unknown field; did you mean 'shutdownAfterJobFinishes'?"),
        (f"{BOX}.imagePullpolicy", "Always", f"{BOX}.imagePullpolicy: unknown field"),
        ("spec.rayClusterSpec.autoscalerOptions.versoin", "v2", "did you mean 'version'?"),
        ("spec.backoffLimit", "3", "spec.backoffLimit: '3' is not of type 'integer'"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0,
         "rayStartParams['num-cpus']: 0 is not of type 'string'"),
        ("spec.rayClusterSpec.authOptions.mode", "tokens", "is not one of ['disabled', 'token']"),
        ("spec.rayClusterSpec.workerGroupSpecs[0].groupName", ..., "'groupName' is a required"),
        (f"{BOX}.resources.limits.memory", [4], "[4] is not of type 'integer' and [4] is not of"),
        (f"{BOX}.ports", [{"containerPort": 1}, {"containerPort": 1}],
         f"{BOX}.ports: entries must differ in containerPort and protocol"),
    ],
)  # fmt: skip
def test_kuberay_schema_broken_is_found(
    good: list[Doc], schemas: Schemas, path: str, value: object, message: str
) -> None:
    put(good, JOB, path, value)
    (line,) = check(good, schemas)
    assert line.startswith(f"{JOB}: ")
    assert message in line
