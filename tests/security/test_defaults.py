"""What is so without anybody asking for it: no unpickling, no foreign code, no reports to anyone."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import RunConfig, open_run
from pipeline.methods import METHODS
from pipeline.schedule import make_plan
from pipeline.tasks import TASKS
from tests.runs import toy_config, toy_mapping

UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "__import__", "torch.load", "np.load", "pd.read_pickle", "yaml.unsafe_load"}
SAFE_LOADING = {"weights_only": True}  # torch's reader of tensors and plain values, in one place


def sources(root: Path) -> list[Path]:
    return [path for name in ("pipeline", "flows") for path in sorted((root / name).rglob("*.py"))]


def test_no_module_can_unpickle_or_evaluate(root):
    found = []
    for path in sources(root):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & UNSAFE_MODULES
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]} & UNSAFE_MODULES
            elif isinstance(node, ast.Call):
                names = {ast.unparse(node.func)} & UNSAFE_CALLS
                if names == {"torch.load"} and path.name == "saved.py":
                    said = {one.arg: getattr(one.value, "value", None) for one in node.keywords}
                    names = set() if said.items() >= SAFE_LOADING.items() else names
            else:
                continue
            found += [f"{path.relative_to(root)}:{node.lineno} {name}" for name in names]
    assert len(sources(root)) > 100
    assert found == []


def test_no_config_can_name_code_to_import():
    """The names of tasks and methods are closed lists, and the schema that editors get says so."""
    properties = RunConfig.json_schema()["properties"]
    for section, known in (("tasks", TASKS), ("methods", METHODS)):
        entry, name_alone = properties[section]["items"]["anyOf"]
        assert name_alone["type"] == "string"
        chosen_by = entry["discriminator"]
        assert chosen_by["propertyName"] == "name"
        assert set(chosen_by["mapping"]) == {cls.model_fields["name"].default for cls in known}


def test_foreign_code_is_off_in_the_manifest_and_in_the_key(tmp_path):
    plan = make_plan(toy_config(tmp_path))
    assert plan.config.model.trust_remote_code is False
    assert plan.manifest()["model"]["trust_remote_code"] is False
    assert "trust_remote_code" not in plan.identity["model"]
    trusting = make_plan(toy_config(tmp_path, model={"name": "toy:planted", "trust_remote_code": True}))
    assert trusting.manifest()["model"]["trust_remote_code"] is True
    assert trusting.run_key != plan.run_key
    run = open_run(trusting.write().path)
    assert run.manifest["identity"]["model"]["trust_remote_code"] is True


def test_a_run_is_not_extended_by_foreign_code(circuits, config_file, tmp_path):
    plan = make_plan(toy_config(tmp_path / "results"))
    plan.write()
    config = config_file(model={"name": "toy:planted", "trust_remote_code": True})
    said = circuits("run", config, "--extend", plan.path, "--local")
    assert said.code == 2
    assert "model: a run is extended with equal model only" in said.err


NAMES = (
    "RAY_USAGE_STATS_ENABLED",
    "HF_HUB_DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
    "PREFECT_SERVER_ANALYTICS_ENABLED",
)


@pytest.mark.parametrize(
    "given", [{}, {"HF_HUB_DISABLE_TELEMETRY": "0"}], ids=["by default", "as a person wants"]
)
def test_nothing_is_reported_to_anyone(root, given):
    code = (
        "import json, os, pipeline.models.load, pipeline.cluster.pool, flows.environment as e; "
        f"e.set_quiet_environment(); print(json.dumps({{n: os.environ.get(n) for n in {NAMES!r}}}))"
    )
    env = {name: value for name, value in os.environ.items() if name not in NAMES}
    env |= {"PYTHONPATH": str(root), **given}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    expected = dict(zip(NAMES, ("0", "1", "1", "false"), strict=True))
    assert json.loads(done.stdout) == expected | given


def test_a_mapping_of_a_config_says_what_is_trusted(tmp_path):
    assert RunConfig.from_mapping(toy_mapping(tmp_path)).to_mapping()["model"]["trust_remote_code"] is False
