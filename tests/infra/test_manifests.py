"""What cannot be run here is at least well formed, names things that exist, and opens nothing by mistake."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator

from tests.infra.nodes import ROOT

INFRA = ROOT / "infra"


def read(name):
    return yaml.safe_load((INFRA / name).read_text())


@pytest.fixture(scope="module")
def pins():
    lines = (INFRA / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def strict(schema):
    """The schema as the operator's server holds a manifest to it: what is not listed is unknown, and where Kubernetes
    takes a number or a string, so does this."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    held = {key: strict(part) for key, part in schema.items()}
    if held.pop("x-kubernetes-int-or-string", False):
        held.pop("type", None)
        held["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        held.setdefault("additionalProperties", False)
    return held


@pytest.fixture(scope="module")
def kuberay():
    """Validators of KubeRay's own schemas, by kind."""
    folder = Path(os.environ.get("CIRCUITS_DATA", ROOT.parent / "shared")) / "kuberay"
    if not folder.is_dir():
        pytest.skip("no schemas of KubeRay: name the folder that has kuberay/*.schema.json in CIRCUITS_DATA")
    return {
        kind: Draft7Validator(strict(json.loads((folder / f"{kind}.schema.json").read_text())))
        for kind in ("RayCluster", "RayJob")
    }


MANIFESTS = {"RayCluster": "kuberay/raycluster.yaml", "RayJob": "kuberay/rayjob.yaml"}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_kuberay_manifests_fit_kuberays_own_schema(kind, kuberay):
    manifest = read(MANIFESTS[kind])
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    assert [error.message for error in kuberay[kind].iter_errors(manifest)] == []


@pytest.mark.parametrize(
    ("at", "wrong"),
    [
        ("spec", {"authOption": {"mode": "token"}}),
        ("spec", {"authOptions": {"mode": "tokens"}}),
        ("spec.headGroupSpec", {"rayStartParam": {}}),
        ("spec.headGroupSpec", {"rayStartParams": {"num-cpus": 0}}),
        ("spec.workerGroupSpecs.0", {"replicas": "two"}),
        ("spec.headGroupSpec.template.spec.containers.0", {"volumesMounts": []}),
        ("spec.headGroupSpec.template.spec.containers.0.resources.limits", {"memory": [8]}),
    ],
)
def test_the_schema_refuses_what_kuberay_does_not_know(at, wrong, kuberay):
    manifest = read(MANIFESTS["RayCluster"])
    assert not list(kuberay["RayCluster"].iter_errors(manifest))
    place = manifest
    for word in at.split("."):
        place = place[int(word) if word.isdigit() else word]
    place |= wrong
    assert list(kuberay["RayCluster"].iter_errors(manifest))


@pytest.mark.parametrize("kind", MANIFESTS)
def test_kuberay_manifests_ask_for_a_token_report_nothing_and_pin_ray(kind, pins):
    spec = read(MANIFESTS[kind])["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    assert cluster["rayVersion"] == pins["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in pods):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            env = {entry["name"]: entry["value"] for entry in container["env"]}
            assert env["RAY_USAGE_STATS_ENABLED"] == env["RAY_enable_metrics_collection"] == "0"
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_start_parameters_are_options_of_the_pinned_ray():
    from ray.scripts.scripts import start

    known = {name for option in start.params for name in option.opts}
    cluster = read("kuberay/raycluster.yaml")["spec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= known


def test_the_network_policy_lets_in_the_cluster_itself_and_few_to_its_dashboard():
    policy = read("kuberay/networkpolicy.yaml")
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    within, from_outside = spec["ingress"]
    assert within == {"from": [{"podSelector": spec["podSelector"]}]}
    assert [port["port"] for port in from_outside["ports"]] == [8265, 52365]
    assert all("podSelector" in peer and peer["podSelector"] for peer in from_outside["from"])


def test_the_launchers_file_is_one_that_the_pinned_ray_accepts():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read("ray/cluster.yaml")
    validate_config(prepare_config(config))
    for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        (script,) = re.findall(r"~/circuits/(infra/\S+)", command)
        assert (ROOT / script).is_file()
        assert "CIRCUITS_BLOCK=0" in command


def test_the_compose_file_fits_its_schema_and_publishes_one_port_on_loopback():
    compose = read("docker-compose.yaml")
    schema = json.loads((ROOT / "tests" / "infra" / "vendored" / "compose_spec.json").read_text())
    Draft7Validator(schema).validate(compose)
    services = compose["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"prefect": ["127.0.0.1:4200:4200"]}
    assert "POSTGRES_PASSWORD" not in services["postgres"]["environment"]
    for service in services.values():
        assert set(service["secrets"]) <= set(compose["secrets"])
        assert set(service["networks"]) <= set(compose["networks"])
        for word in service.get("command", []):
            for script in re.findall(r"/opt/circuits/(infra/\S+\.sh)", word):
                assert (ROOT / script).is_file()


def test_prefect_deployments_name_flows_and_fit_prefects_own_models(monkeypatch):
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
    from importlib import import_module

    from prefect.cli.deploy._models import PrefectYamlModel
    from prefect.flows import Flow

    from flows import deployment

    mapping = read("prefect.yaml")
    PrefectYamlModel.model_validate(mapping)
    names = set()
    for entry in mapping["deployments"]:
        module, _, name = entry["entrypoint"].rpartition(".")
        flow = getattr(import_module(module), name)
        assert isinstance(flow, Flow)
        names.add(f"{flow.name}/{entry['name']}")
    assert names == {"sweep/cluster", "discover/cluster"}
    assert deployment.DEPLOYMENT in names


def test_the_image_installs_with_the_pins_and_copies_what_is_there(pins):
    text = (INFRA / "Dockerfile").read_text()
    assert f"torch=={pins['torch']}" in text
    assert text.count("pip install") == text.count("-c infra/constraints.txt")
    for line in text.splitlines():
        if line.startswith("COPY"):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line
    assert "USER circuits" in text


def test_the_batch_script_is_good_shell_and_calls_what_is_there():
    import subprocess

    script = INFRA / "slurm" / "circuits.sbatch"
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    called = re.findall(r"\$infra/(\S+?\.sh)", script.read_text())
    assert len(called) == 3
    assert all((INFRA / path).is_file() for path in called)
