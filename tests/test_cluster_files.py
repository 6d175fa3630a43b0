"""The configurations in cluster/: read by Ray's own code, AWS's own model, and KubeRay's own schemas."""

from __future__ import annotations

import copy
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import sdoml_dist
from sdoml_dist.cli import parser
from sdoml_dist.engine.submit import ENVIRONMENT
from sdoml_dist.store.lease import LIFETIME_S
from tests.conftest import ROOT

CLUSTER = ROOT / "cluster"
CLOUDS = ("ray-aws", "ray-gcp")
KUBERAY = ("raycluster", "rayjob")
RAY = "2.60.0"


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return Ray's own check of a configuration of 'ray up'; the token's file is there, as its user's would be."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a" * 64)

    def check(config: dict[str, Any]) -> dict[str, Any]:
        prepared = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
        return prepared

    return check


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_accepts_the_clouds_and_refuses_mistakes(name: str, checked: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    config = load(name)
    prepared = checked(config)
    types = prepared["available_node_types"]
    assert prepared["head_node_type"] == "head"
    assert types["head"]["resources"]["CPU"] == 0
    assert types["worker"]["min_workers"] == 0
    assert types["worker"]["max_workers"] == prepared["max_workers"] > 1
    assert 0 < prepared["idle_timeout_minutes"] <= 10
    mistakes: list[Callable[[dict[str, Any]], Any]] = [
        lambda c: c.update(idle_timeout_minuts=3),
        lambda c: c["available_node_types"]["worker"].update(max_wrkers=3),
        lambda c: c.update(head_node_type="nope"),
    ]
    for spoil in mistakes:
        bad = copy.deepcopy(config)
        spoil(bad)
        with pytest.raises((jsonschema.ValidationError, ValueError)):
            checked(bad)


@pytest.mark.parametrize("name", CLOUDS)
def test_nodes_of_clouds_are_locked_tagged_spot_and_alive(name: str) -> None:
    config = load(name)
    for kind in ("head", "worker"):
        commands = " ".join(config[f"{kind}_start_ray_commands"])
        for setting in ("RAY_AUTH_MODE=token", "RAY_enable_autoscaler_v2=1", "RAY_grpc_client_keepalive_time_ms=",
                        "RAY_grpc_client_keepalive_timeout_ms=", "RAY_USAGE_STATS_ENABLED=0"):  # fmt: skip
            assert setting in commands
    head = config["head_start_ray_commands"][-1]
    assert "--num-cpus=0" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in json.dumps(config)
    assert any(path.endswith(".ray/auth_token") for path in config["file_mounts"])
    assert "health_check" not in json.dumps(config)
    worker, head_node = (config["available_node_types"][kind]["node_config"] for kind in ("worker", "head"))
    if name == "ray-aws":
        assert worker["InstanceMarketOptions"]["MarketType"] == "spot"
        for node in (worker, head_node):
            tags = {tag["Key"] for spec in node["TagSpecifications"] for tag in spec["Tags"]}
            assert tags >= {"project", "cost-centre"}
            assert node["MetadataOptions"]["HttpTokens"] == "required"
            assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])
    else:
        assert worker["scheduling"]["provisioningModel"] == "SPOT"
        for node in (worker, head_node):
            assert set(node["labels"]) >= {"project", "cost-centre"}
            assert all(re.fullmatch("[a-z0-9_-]{1,63}", text) for item in node["labels"].items() for text in item)


@pytest.mark.parametrize("name", CLOUDS)
def test_nodes_of_clouds_install_the_wheel_that_was_made_here(name: str) -> None:
    """No index of packages is asked for this project: whoever registers its name there could run code on every node."""
    config = load(name)
    wheel = f"sdoml_dist-{sdoml_dist.__version__}-py3-none-any.whl"
    assert config["file_mounts"][f"/home/ubuntu/{wheel}"] == f"dist/{wheel}"
    installs = [command.split(" install ")[1] for command in config["setup_commands"] if "pip install" in command]
    assert len(installs) == 2
    assert "--force-reinstall --no-deps" in installs[0]
    for install in installs:
        named = [word.strip('"') for word in install.split() if not word.startswith("-")]
        assert len(named) == 1
        assert re.fullmatch(rf"(~|\$HOME)/{re.escape(wheel)}(\[gcs\])?", named[0])
    texts = [path.read_text() for path in (*CLUSTER.rglob("*.*"), CLUSTER / "Dockerfile", ROOT / "docs/clusters.md")]
    assert not any(re.search(r"sdoml-dist(\[\w+\])?==", text) for text in texts)


def test_a_host_lost_in_silence_is_given_up_within_about_a_minute() -> None:
    """Ray's own health checks decide: none of the files changes them, and docs/clusters.md tells what they come to."""
    from ray._raylet import Config

    checks, pause_ms = Config.health_check_failure_threshold(), Config.health_check_period_ms()
    longest_s = checks * (Config.health_check_timeout_ms() + pause_ms) / 1000
    assert 50 <= longest_s <= 70
    assert "within about a minute" in (ROOT / "docs/clusters.md").read_text()
    assert not any("health_check" in path.read_text() for path in CLUSTER.rglob("*.yaml"))


def test_aws_knows_every_key_of_the_machines() -> None:
    """Ray passes node_config on as it is; botocore has the model of what EC2's RunInstances takes."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    shape = ServiceModel(Loader().load_service_model("ec2", "service-2")).operation_model("RunInstances").input_shape

    def faults(node: dict[str, Any]) -> str:
        return ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape).generate_report()

    types = load("ray-aws")["available_node_types"]
    for node in types.values():
        assert faults(node["node_config"]) == ""
    assert "InstanceTypo" in faults(types["worker"]["node_config"] | {"InstanceTypo": "m7i.large"})
    assert "SpotOptions" in faults(types["worker"]["node_config"] | {"InstanceMarketOptions": {"SpotOptions": "one-time"}})


# KubeRay -------------------------------------------------------------------------------------------------------------

CRDS = ROOT / "tests" / "data" / "kuberay" / "crds.json.gz"


def strict(node: Any, *, root: bool = True) -> Any:
    """Return a schema that refuses fields it does not name, as an API server with strict validation does.

    Kubernetes looks after `metadata` of a resource itself; elsewhere an object without fields has none.
    """
    if isinstance(node, list):
        return [strict(item, root=False) for item in node]
    if not isinstance(node, dict):
        return node
    made = {}
    for key, value in node.items():
        named = key == "properties"
        made[key] = (
            {name: part if root and name == "metadata" else strict(part, root=False) for name, part in value.items()}
            if named
            else strict(value, root=False)
        )
    closed = not node.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in node
    if node.get("type") == "object" and closed:
        made["additionalProperties"] = False
    return made


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    """Return KubeRay's own schemas by kind (tests/data/kuberay/NOTICE says of which commit)."""
    found: dict[str, Any] = json.loads(gzip.decompress(CRDS.read_bytes()))
    return {kind: strict(schema) for kind, schema in found.items()}


def faults(resource: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(schemas[resource["kind"]])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(resource)]


def cluster_of(resource: dict[str, Any]) -> dict[str, Any]:
    """Return the RayCluster that KubeRay makes of a resource."""
    spec = resource["spec"].get("rayClusterSpec", resource["spec"])
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "sdoml", "namespace": "default"}, "spec": spec}


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_accepts_its_manifests_and_refuses_mistakes(name: str, schemas: dict[str, Any]) -> None:
    resource = load(f"kuberay/{name}")
    assert resource["apiVersion"] == "ray.io/v1"
    assert resource["metadata"].keys() == {"name", "labels"}
    assert faults(resource, schemas) == []

    def group(spoilt: dict[str, Any]) -> dict[str, Any]:
        return cluster_of(spoilt)["spec"]["workerGroupSpecs"][0]

    def pod(spoilt: dict[str, Any]) -> dict[str, Any]:
        return group(spoilt)["template"]["spec"]

    mistakes: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda r: group(r).update(maxReplica=3), "'maxReplica' was unexpected"),
        (lambda r: group(r).update(replicas="two"), "'two' is not of type 'integer'"),
        (lambda r: group(r).pop("template"), "'template' is a required property"),
        (lambda r: group(r)["rayStartParams"].update({"num-cpus": 15}), "15 is not of type 'string'"),
        (lambda r: group(r)["template"]["metadata"].update(lables={}), "'lables' was unexpected"),
        (lambda r: pod(r).update(nodeSelektor={}), "'nodeSelektor' was unexpected"),
        (lambda r: pod(r)["containers"][0].update(envFrom=[{"secretReff": {}}]), "'secretReff' was unexpected"),
        (lambda r: pod(r)["containers"][0]["resources"]["limits"].update(memory="56 GB"), "'56 GB'"),
        (lambda r: pod(r)["securityContext"].update(runAsNonRoot="yes"), "'yes' is not of type 'boolean'"),
        (lambda r: cluster_of(r)["spec"]["authOptions"].update(mode="tokens"), "'tokens' is not one of"),
        (lambda r: cluster_of(r)["spec"]["autoscalerOptions"].update(upscalingMode="Fast"), "'Fast' is not one of"),
        (lambda r: r["spec"].update(ttlSeconds=600), "'ttlSeconds' was unexpected"),
    ]  # fmt: skip
    for spoil, told in mistakes:
        bad = copy.deepcopy(resource)
        spoil(bad)
        assert any(told in fault for fault in faults(bad, schemas)), (told, faults(bad, schemas))


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_clusters_are_locked_and_end_when_their_job_does(name: str) -> None:
    resource = load(f"kuberay/{name}")
    spec = cluster_of(resource)["spec"]
    assert spec["rayVersion"] == RAY
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["autoscalerOptions"]["version"] == "v2"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    if resource["kind"] == "RayJob":
        assert yaml.safe_load(resource["spec"]["runtimeEnvYAML"]) == {"env_vars": ENVIRONMENT}
        assert resource["spec"]["shutdownAfterJobFinishes"] is True
        assert resource["spec"]["ttlSecondsAfterFinished"] <= 3600
        assert resource["spec"]["backoffLimit"] == 3


def entrypoint(folder: Path, body: str) -> subprocess.Popen[str]:
    """Run the job's command as Ray does, with a script in the place of ``sdoml``."""
    script = folder / "sdoml"
    script.write_text(f'#!/bin/sh\necho "$@" > {folder}/arguments\n{body}\n')
    script.chmod(0o755)
    command = load("kuberay/rayjob")["spec"]["entrypoint"]
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.Popen(command, shell=True, env=environment, start_new_session=True, text=True)


@pytest.mark.parametrize(("code", "told"), [(0, 0), (3, 0), (2, 2), (5, 5), (75, 75)])
def test_the_job_ends_as_its_build_does_but_for_failed_frames(code: int, told: int, tmp_path: Path) -> None:
    assert entrypoint(tmp_path, f"exit {code}").wait(20) == told
    arguments = (tmp_path / "arguments").read_text().split()
    options = parser().parse_args(arguments)
    assert (options.verb, options.recipe) == ("build", "/recipes/recipe.yaml")
    # The lease of a driver that was killed with its node has run out by then.
    assert options.wait >= 2 * LIFETIME_S


def test_the_jobs_shell_waits_for_a_build_that_is_stopped(tmp_path: Path) -> None:
    """Ray's stop goes to the shell and to the driver; without the shell nobody would see the driver end."""
    process = entrypoint(tmp_path, f"trap 'sleep 1; touch {tmp_path}/drained; exit 75' TERM\ntouch {tmp_path}/begun\n"
                                   "while :; do sleep 0.1; done")  # fmt: skip
    deadline = time.monotonic() + 20
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(20) == 75
    assert (tmp_path / "drained").exists()


@pytest.mark.parametrize("name", KUBERAY)
def test_ray_makes_an_autoscaling_cluster_of_kuberay_manifests(name: str) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    cluster = cluster_of(load(f"kuberay/{name}"))
    config = _derive_autoscaling_config_from_ray_cr(copy.deepcopy(cluster))
    validate_config(config)
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert (types["spot"]["min_workers"], types["spot"]["max_workers"]) == (0, 16)
    assert config["idle_timeout_minutes"] == 5
    group = cluster["spec"]["workerGroupSpecs"][0]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    # What Ray counts with is what the container may use.
    assert types["spot"]["resources"]["CPU"] == int(limits["cpu"]) == int(group["rayStartParams"]["num-cpus"])
    assert types["spot"]["resources"]["memory"] <= int(limits["memory"].removesuffix("Gi")) * 2**30


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_pods_are_spot_keep_connections_alive_and_say_what_they_cost(name: str) -> None:
    resource = load(f"kuberay/{name}")
    spec = cluster_of(resource)["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        assert set(group["template"]["metadata"]["labels"]) >= {"project", "cost-centre"}
        container = group["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        environment = {item["name"]: item["value"] for item in container["env"]}
        assert environment.keys() >= {"RAY_grpc_client_keepalive_time_ms", "RAY_grpc_client_keepalive_timeout_ms"}
    assert groups[0]["rayStartParams"]["num-cpus"] == "0"
    assert "spot" in json.dumps(groups[1]["template"]["spec"]["nodeSelector"])
    assert groups[1]["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_image_is_pinned_and_runs_as_a_user() -> None:
    lines = [line for line in (CLUSTER / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    images = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert images
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", image) for image in images)
    assert [line.split()[1] for line in lines if line.startswith("USER")] == ["1000:1000"]
    text = "\n".join(lines)
    assert "RAY_AUTH_MODE=token" in text
    assert not re.search("cuda|nvidia", text, re.IGNORECASE)
    requirements = (ROOT / "pyproject.toml").read_text()
    assert f"ray[data,default]=={RAY}" in requirements


# AWS, run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ec2(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start a server that answers as AWS does (moto), and return the environment in which Ray talks to it."""
    import time
    from urllib.error import URLError
    from urllib.request import urlopen

    port = 5950 + os.getpid() % 40
    environment = {
        **os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path),
    }  # fmt: skip
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urlopen(environment["AWS_ENDPOINT_URL"], timeout=2).close()
                break
            except (URLError, OSError):
                time.sleep(0.2)
        yield environment
    finally:
        server.terminate()
        server.wait(20)


_ON_AWS = """
import copy, json, sys, yaml
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import *
import boto3
config = yaml.safe_load(open(sys.argv[1]))
image = boto3.client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
for kind in config["available_node_types"].values():
    kind["node_config"]["ImageId"] = image
config = bootstrap_aws(prepare_config(config))
provider = AWSNodeProvider(config["provider"], config["cluster_name"])
tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: "worker", TAG_RAY_NODE_STATUS: "uninitialized",
        TAG_RAY_NODE_NAME: "w", TAG_RAY_LAUNCH_CONFIG: "x"}
provider.create_node(copy.deepcopy(config["available_node_types"]["worker"]["node_config"]), tags, 1)
nodes = provider.non_terminated_nodes({})
groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
rules = [rule for group in groups if "ray" in group["GroupName"] for rule in group["IpPermissions"]]
found = {"nodes": len(nodes), "tags": provider.node_tags(nodes[0]), "open": [
    rule.get("FromPort") for rule in rules if any(one["CidrIp"] == "0.0.0.0/0" for one in rule.get("IpRanges", []))]}
provider.terminate_nodes(nodes)
found["left"] = len(provider.non_terminated_nodes({}))
print("FOUND" + json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ray_starts_and_ends_the_machines_of_the_aws_file(ec2: dict[str, str]) -> None:
    command = [sys.executable, "-c", _ON_AWS, str(CLUSTER / "ray-aws.yaml")]
    done = subprocess.run(command, env=ec2, capture_output=True, text=True, timeout=220)
    assert "FOUND" in done.stdout, (done.stdout + done.stderr)[-3000:]
    found = json.loads(done.stdout.split("FOUND")[1])
    assert (found["nodes"], found["left"]) == (1, 0)
    assert found["tags"]["project"] == "sdoml"
    assert found["tags"]["ray-user-node-type"] == "worker"
    # From outside the cluster nothing is reached but ssh.
    assert found["open"] == [22]
