"""Manifests, plans and configs of run directories that somebody else has made: refused in one line, before anything is
read or written elsewhere."""

import contextlib
import json

import pytest
import yaml

from pipeline import load_scores, open_run
from pipeline.core.errors import CircuitsError
from pipeline.core.items import Item
from pipeline.report.essentials import essentials
from tests.runs import content
from tests.security.conftest import refused
from tests.security.hostile import BAD_ID, READERS, call, edit
from tests.slowly import slow

METHOD = {"level": "edge", "parameters": {"name": "eap", "metric": "logit_diff", "ablation": "corrupted"}}
MANIFESTS = {
    "a task that climbs": ({"identity__tasks": {BAD_ID: {}}}, ["manifest.json", "identity.tasks"]),
    "a method that climbs": ({"methods": {BAD_ID: METHOD}}, ["manifest.json", "methods"]),
    "a method of two lines": ({"methods": {"a\nb": METHOD}}, ["manifest.json", "methods"]),
    "a threshold of words": (
        {"methods__eap__parameters__threshold": "../x"},
        ["manifest.json", "methods.eap.parameters.threshold"],
    ),
    "a level that is none": ({"methods__eap__level": "../x"}, ["manifest.json", "methods.eap.level"]),
    "a schema of tomorrow": ({"schema_version": 99}, ["schema version 99", "run the config again"]),
    "a schema of words": ({"schema_version": "\x1b[31m1"}, ["schema version", "\\x1b[31m1"]),
    "no identity": ({"identity": ...}, ["manifest.json", "identity is missing"]),
    "methods that are a list": ({"methods": []}, ["manifest.json", "methods"]),
    "10^9 layers": ({"graph__n_layers": 10**9}, ["manifest.json", "graph", "edges"]),
    "another graph": ({"graph__n_layers": 2}, ["manifest.json", "graph_fingerprint"]),
    "layers that are a fraction": ({"graph__n_layers": 1.5}, ["manifest.json", "graph.n_layers"]),
    "no heads": ({"graph__n_heads": 0}, ["manifest.json", "graph.n_heads"]),
    "a name of escape sequences": ({"name": "\x1b[2Jtoy"}, ["manifest.json", "name", "not seen"]),
    "a model of two lines": ({"model__name": "a\r\nb"}, ["manifest.json", "model.name", "not seen"]),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests(circuits, run, case):
    changes, words = MANIFESTS[case]
    edit(run / "manifest.json", **changes)
    before = content(run)
    for verb in READERS:
        refused(call(circuits, verb, run), [1], words)
    with pytest.raises(CircuitsError):
        load_scores(run)
    assert content(run) == before


TEXTS = {
    "NaN": '{"schema_version": NaN}',
    "nested": '{"a":' * 100_000,
    "a key given twice": '{"schema_version": 1, "schema_version": 1}',
    "a list": "[]",
    "a number of 5,000 digits": '{"schema_version": ' + "1" * 5000 + "}",
    "no text": "\udcff\udcfe",
}


@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
@pytest.mark.parametrize("case", TEXTS)
def test_json_that_is_none(circuits, run, name, case):
    (run / name).write_bytes(TEXTS[case].encode(errors="surrogateescape"))
    refused(circuits("status", run), [1], [name])


@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
def test_json_of_two_gigabytes(circuits, run, name):
    with (run / name).open("r+b") as file:
        file.truncate(2**31)
    refused(circuits("status", run), [1], [name, "2,147,483,648 bytes are over 1,073,741,824"])


ITEM = {"kind": "scores", "task": "induction", "method": "eap", "shard": 0, "key": "k"}
PLANS = {
    "a task that climbs": {**ITEM, "task": BAD_ID},
    "a method that climbs": {**ITEM, "method": BAD_ID},
    "an absolute method": {**ITEM, "method": "/etc/passwd"},
    "a kind that climbs": {**ITEM, "kind": "../../outside"},
    "a shard that is a path": {**ITEM, "shard": "../../../outside/x"},
    "a shard below zero": {**ITEM, "shard": -1},
    "a shard of 30 digits": {**ITEM, "shard": 10**30},
    "an item that is a word": "scores",
    "an item without a key": {key: ITEM[key] for key in ("kind", "task", "method", "shard")},
}


@pytest.mark.parametrize("case", PLANS)
def test_plans(circuits, run, case):
    edit(run / "plan.json", items=[PLANS[case]])
    for verb in ("status", "show", "report"):
        refused(call(circuits, verb, run), [1], ["plan.json", "run the config again"])


ANYTHING = (None, -1, 10**30, "../../x", [], {"a": {}}, True, 1.5, ...)


def leaves(value, path=()):
    """The path of every value within a value; of lists the first and the last."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        if isinstance(value, dict) or key in (0, len(value) - 1):
            yield from leaves(one, (*path, key))


@pytest.mark.parametrize("name", [*slow("manifest.json"), "plan.json"])
def test_any_value_may_be_anything(run, name):
    """Another value for each in turn, or none: what follows are results or one error for people, nothing else."""
    original = (run / name).read_text()
    paths = list(leaves(json.loads(original)))[1:]
    assert len(paths) > 30
    for turn, path in enumerate(paths):
        whole = json.loads(original)
        holder = whole
        for key in path[:-1]:
            holder = holder[key]
        value = ANYTHING[turn % len(ANYTHING)]
        if value is ...:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value
        (run / name).write_text(json.dumps(whole))
        with contextlib.suppress(CircuitsError):
            spoilt = open_run(run)
            spoilt.status()
            essentials(spoilt)


def test_no_item_has_a_path_that_leads_out():
    for id_ in (
        "..",
        ".",
        "",
        "../x",
        "/x",
        "a/b",
        "a\\b",
        "a\0",
        "a\n",
        "\uff41",
        "A",
        "x" * 81,
        "-x",
        ".x",
    ):
        with pytest.raises(ValueError, match="no such item"):
            Item("scores", id_, "eap", 0)
        with pytest.raises(ValueError, match="no such item"):
            Item("scores", "induction", id_, 0)


# --- run.yaml ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: !!python/object/apply:os.system ['touch executed']", ["run.yaml:1", "not valid YAML"]),
        (
            "a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)),
            ["aliases"],
        ),
        ("- a\n- b\n", ["run.yaml", "holds no keys"]),
        ("name: '" + "x" * 600_000 + "'", ["run.yaml", "over 500,000 bytes"]),
    ],
    ids=["Python", "aliases", "a list", "long"],
)
def test_run_yaml(circuits, run, monkeypatch, text, words):
    monkeypatch.chdir(run.parent)
    (run / "run.yaml").write_text(text)
    refused(call(circuits, "resume", run), [2], words)


def test_a_run_directory_does_not_decide_what_code_runs(circuits, run):
    config = yaml.safe_load((run / "run.yaml").read_text())
    config["model"]["trust_remote_code"] = True
    (run / "run.yaml").write_text(yaml.safe_dump(config))
    words = ["run.yaml", "trust_remote_code", "--set model.trust_remote_code=true"]
    refused(call(circuits, "resume", run), [2], words)
    refused(circuits("reproduce", run, "induction/eap/0"), [2], words)
    said = circuits("resume", run, "--local", "--set", "model.trust_remote_code=true")
    assert "holds another run" in said.err  # asked for, and it is another run then
