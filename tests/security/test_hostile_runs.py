"""Run directories that somebody else has made: nothing in them leads out, runs, or ends in a traceback."""

import contextlib
import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flows.cli import main
from pipeline import load_scores, open_run
from pipeline.core.errors import CircuitsError
from pipeline.core.items import Item, digest
from pipeline.report.essentials import essentials
from pipeline.store.files import _seal, read_footer, read_parquet, write_parquet
from tests.runs import content, toy_mapping
from tests.security.conftest import refused

READERS = {
    "status": ("status",),
    "show": ("show",),
    "report": ("report",),
    "export": ("export", "--format", "csv"),
    "failures": ("failures",),
    "resume": ("resume", "--local"),
}
BAD_ID = "../../../outside/x"


def call(circuits, verb: str, run: Path):
    first, *rest = READERS[verb]
    return circuits(first, run, *rest)


def edit(path: Path, **changes) -> None:
    """Sets keys such as `identity__seed`; `...` removes one."""
    whole = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        holder = whole
        for parent in parents:
            holder = holder[parent]
        if value is ...:
            del holder[last]
        else:
            holder[last] = value
    path.write_text(json.dumps(whole))


# --- the manifest and the plan -----------------------------------------------------------------------------

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


@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
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


# --- links -------------------------------------------------------------------------------------------------

LINKS = {
    "scores": "a folder that is read and written",
    "prompts.parquet": "a file that is read",
    "manifest.json": "the first file",
    "report.html": "a file that is written",
    ".reserve": "a file that is overwritten",
    ".lock": "the lock",
    ".lock-guard": "a file that is opened",
    "circuits": "a folder whose files are replaced",
    "failures": "a folder that is removed",
    "aggregate/task=induction": "a folder further down",
    "scores/task=induction/method=eap/shard-00000.parquet": "an item's file",
}


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize("name", LINKS)
def test_links_that_lead_out(circuits, place, run, verb, name):
    link = run / name
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    is_file = "." in link.name
    link.symlink_to(place.outside / "table.parquet" if is_file else place.outside)
    refused(call(circuits, verb, run), [1], [str(link), "outside of the run", "remove it"])


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["", "dry run"])
@pytest.mark.parametrize("name", [".lock-guard", ".lock", "_bad", ".x.tmp-1", "scores/_bad-1"])
def test_gc_leaves_a_run_with_such_a_link_alone(circuits, place, run, name, options):
    link = run / name
    link.unlink(missing_ok=True)
    link.symlink_to(place.outside if "_bad" in name else place.outside / "new")
    said = circuits("gc", run, *options)
    assert said.code == 0
    assert f"left alone, {link}: a link to {place.outside}" in said.out
    assert len(said.out.splitlines()) == 2
    assert link.is_symlink()


@pytest.mark.parametrize("name", LINKS)
def test_verify_names_such_a_link(circuits, place, run, name):
    link = run / name
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.symlink_to(place.outside / "table.parquet" if "." in link.name else place.outside)
    said = circuits("verify", run)
    assert said.code in (1, 3)
    words = [line for line in (said.out + said.err).splitlines() if "outside of the run" in line]
    assert len(words) == 1
    assert name in words[0]


def test_a_new_run_does_not_write_through_links_either(circuits, config_file, place):
    folder = place.path / "new"
    folder.mkdir()
    (folder / ".reserve").symlink_to(place.outside / "thesis.json")
    said = circuits("run", config_file(), "--run-dir", folder, "--local")
    refused(said, [1], [".reserve", "outside of the run"])


def test_a_link_into_nothing_outside(circuits, place, run):
    (run / "scores" / "x").symlink_to(place.path / "nowhere")
    refused(circuits("status", run), [1], ["scores/x", "outside of the run"])


def test_links_within_a_run_and_to_a_run_are_fine(circuits, place, run):
    (run / "latest").symlink_to(run / "scores")
    (place.path / "alias").symlink_to(run)
    assert circuits("status", place.path / "alias").code == 0


def test_pipes_do_not_keep_a_reader_waiting(circuits, run):
    (run / "plan.json").unlink()
    os.mkfifo(run / "plan.json")
    refused(circuits("status", run), [1], ["plan.json", "neither a file nor a folder"])


# --- Parquet -----------------------------------------------------------------------------------------------

SHARD = "scores/task=induction/method=eap/shard-00000.parquet"
MERGED = "aggregate/task=induction/method=eap/merged.parquet"


def forged(path: Path, table: pa.Table | None = None, **facts) -> None:
    """Writes the file anew with other values or facts, sealed like one of ours."""
    written = read_parquet(path) if table is None else table
    write_parquet(path, written, {**read_footer(path), **facts})


def with_column(path: Path, name: str, values) -> pa.Table:
    table = read_parquet(path)
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.field(place), values)


def named(path: Path, column: str, name: str) -> pa.Table:
    """The table with one of its names replaced."""
    found = read_parquet(path)[column].combine_chunks()
    names = [name, *found.dictionary.to_pylist()[1:]]
    return with_column(path, column, pa.DictionaryArray.from_arrays(found.indices, names))


def cmd(path):
    forged(path, named(path, "sender", "=HYPERLINK(1)"))


def script(path):
    forged(path, named(path, "receiver", "<script>alert(1)</script>"))


def far_ids(path):
    table = read_parquet(path)
    forged(path, with_column(path, "edge_id", pa.array([10**9] * len(table), pa.int32())))


def negative_ids(path):
    table = read_parquet(path)
    forged(path, with_column(path, "edge_id", pa.array([-1] * len(table), pa.int32())))


def swapped(path):
    forged(
        path,
        with_column(path, "edge_id", pa.array(read_parquet(path)["edge_id"].to_pylist()[::-1], pa.int32())),
    )


def formula_span(path):
    table = read_parquet(path)
    forged(path, with_column(path, "span", pa.array(["=cmd|'/C calc'!A0"] * len(table)).dictionary_encode()))


def other_schema(path):
    forged(path, pa.table({"a": [1]}))


def two_of_a_name(path):
    table = read_parquet(path)
    forged(path, table.append_column("score", table["score"]))


def no_seal(path):
    pq.write_table(read_parquet(path), path)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def not_parquet(path):
    path.write_bytes(pickle.dumps({"a": 1}))


def bomb(path):
    table = read_parquet(path)
    many = pa.concat_tables([table.slice(0, 1)] * 2).combine_chunks().take(pa.array([0] * 5_000_000))
    forged(path, many)


def asks_to_be_unpickled(path, pickled):
    """A column more, of a type that old versions of Arrow unpickled."""
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickled}
    table = read_parquet(path)
    extra = pa.field("extra", pa.string(), metadata=metadata)
    forged(path, table.append_column(extra, [["x"] * len(table)]))


FILES = {
    "a formula as a sender": (cmd, "does not name"),
    "a script as a receiver": (script, "does not name"),
    "ids beyond the graph": (far_ids, "not among the graph's"),
    "ids below zero": (negative_ids, "not among the graph's"),
    "ids of other names": (swapped, "does not name"),
    "a formula as a span": (formula_span, "none can be called"),
    "other columns": (other_schema, "column"),
    "two columns of a name": (two_of_a_name, "one name"),
    "no seal": (no_seal, "footer"),
    "torn": (truncated, ""),
    "a pickle": (not_parquet, ""),
    "5 million rows in a few kilobytes": (bomb, "it claims"),
}


@pytest.mark.parametrize("verb", ["show", "report", "export"])
@pytest.mark.parametrize("case", FILES)
def test_merged_scores(circuits, run, verb, case):
    spoil, words = FILES[case]
    spoil(run / MERGED)
    refused(call(circuits, verb, run), [1], ["merged.parquet", "damaged", words, "circuits resume"])


@pytest.mark.parametrize("case", FILES)
def test_scores_of_a_shard_are_computed_anew(circuits, run, case):
    """A file that is not what an item holds is not done; resuming sets it aside and mends the run."""
    before = load_scores(run)
    FILES[case][0](run / SHARD)
    said = call(circuits, "resume", run)
    assert said.code == 0, said
    assert "Traceback" not in said.err
    assert [path.name[:5] for path in (run / SHARD).parent.glob("_bad*")] == ["_bad-"]
    assert load_scores(run).equals(before)


@pytest.mark.parametrize("name", [SHARD, MERGED], ids=["shard", "merged"])
@pytest.mark.parametrize("case", FILES)
def test_verify_names_such_a_file(circuits, run, name, case):
    FILES[case][0](run / name)
    said = circuits("verify", run)
    assert said.code == 3
    assert said.err == ""
    (line,) = [line for line in said.out.splitlines() if line.startswith(f"{name}: ")]
    assert line.endswith(f"; next: circuits resume {run}")
    assert "1 damaged" in said.out


def test_a_forged_item_key(circuits, run):
    forged(run / SHARD, item_key="0" * 64)
    said = circuits("status", run, "--json")
    assert said.code == 3
    assert said.data["missing"] == 1
    assert call(circuits, "resume", run).code == 0


def test_metadata_for_pandas_steers_nothing(circuits, run):
    """Rows, index and columns are those of the schema, whatever another reader is told."""
    told = {
        "index_columns": ["score"],
        "columns": [{"name": "edge_id", "pandas_type": "object"}],
        "pandas_version": "1",
    }
    table = read_parquet(run / MERGED)
    before = load_scores(run)
    forged(run / MERGED, table.replace_schema_metadata({"pandas": json.dumps(told)}))
    assert load_scores(run).equals(before)


def test_a_footer_that_claims_other_rows(circuits, run):
    path = run / MERGED
    facts = {**read_footer(path), "rows": str(10**12)}
    pq.write_table(read_parquet(path).replace_schema_metadata(_seal(facts)), path)
    refused(circuits("show", run), [1], ["merged.parquet", "rows where 1000000000000 were written"])


def test_a_parquet_file_that_asks_to_be_unpickled(circuits, place, run):
    asks_to_be_unpickled(run / MERGED, place.bomb)
    assert circuits("show", run).code == 0


@pytest.mark.parametrize("text", ["[1]", "{", "<script>alert(1)</script>", '{"torch": ["x"]}'])
def test_facts_of_a_footer(circuits, run, text):
    forged(run / SHARD, versions=text, seconds="\x1b[2J", device="<b>", attempt="NaN")
    assert circuits("show", run).code == 0
    assert circuits("report", run).code == 0
    assert "<script" not in (run / "report.html").read_text()
    open_run(run).footers()


def test_faithfulness_of_another_run(circuits, run):
    path = run / "faithfulness.parquet"
    table = read_parquet(path)
    forged(path, with_column(path, "method", pa.array(["<script>"] * len(table))))
    for verb in ("show", "report"):
        refused(call(circuits, verb, run), [1], ["faithfulness.parquet", "another run"])


def test_prompts_of_another_shape(circuits, run):
    forged(run / "prompts.parquet", pa.table({"task": ["induction"]}))
    refused(circuits("report", run), [1], ["prompts.parquet", "cannot be read"])


# --- pickles, records, locks -------------------------------------------------------------------------------


def test_pickles_in_a_run_are_never_read(circuits, place, run):
    for name in ("scores.pkl", "manifest.pkl", "aggregate/task=induction/x.pickle", "pytorch_model.bin"):
        (run / name).write_bytes(place.bomb)
    (run / "statistics/task=induction/means.safetensors").write_bytes(place.bomb)
    for verb in ("show", "report", "export", "failures"):
        assert call(circuits, verb, run).code in (0, 3)
    assert circuits("status", run).code == 3
    assert call(circuits, "resume", run).code == 0
    assert list((run / "statistics/task=induction").glob("_bad-*"))


RECORD = {
    "kind": "scores",
    "task": "induction",
    "method": "eap",
    "shard": 0,
    "attempt": 1,
    "failure": "error",
}
RECORDS = {
    "a list": "[]",
    "nested": "[" * 100_000,
    "no fields": "{}",
    "a task that climbs": json.dumps(RECORD | {"task": BAD_ID}),
    "an attempt of words": json.dumps(RECORD | {"attempt": "<script>"}),
    "a message that is a list": json.dumps(RECORD | {"message": ["\x1b[2J"]}),
    "no text": "\udcff",
}


@pytest.mark.parametrize("case", RECORDS)
def test_records_of_failures(circuits, run, case):
    (run / SHARD).unlink()
    folder = run / "failures/task=induction/method=eap/shard-00000"
    folder.mkdir(parents=True)
    (folder / "attempt-1.json").write_bytes(RECORDS[case].encode(errors="surrogateescape"))
    assert circuits("status", run).code == 3
    assert circuits("failures", run).code == 3
    assert [record["error"] for record in open_run(run).failures()] == ["unreadable record"]
    assert call(circuits, "resume", run).code == 0


def test_messages_of_failures_do_not_steer_the_terminal(circuits, run):
    (run / SHARD).unlink()
    folder = run / "failures/task=induction/method=eap/shard-00000"
    folder.mkdir(parents=True)
    hostile = "\x1b]0;owned\x07\x1b[2J[red]\u202edone\r\nerror: none"
    record = RECORD | {
        "message": hostile,
        "error": "\x9b31m",
        "host": hostile,
        "device": hostile,
        "final": True,
    }
    (folder / "attempt-1.json").write_text(json.dumps(record | {"next_step": hostile}))
    said = circuits("failures", run)
    assert said.code == 3
    assert len(said.out.splitlines()) == 3
    assert all(line.isprintable() for line in said.out.splitlines())
    assert "[red]" in said.out


def test_nobody_is_told_to_kill_every_process(circuits, run):
    owner = {"host": socket.gethostname(), "boot_id": "", "pid": -1, "pid_start": "", "token": "t"}
    (run / ".lock").write_text(json.dumps(owner))
    for verb in ("status", "resume", "cancel"):
        said = circuits(verb, run) if verb == "cancel" else call(circuits, verb, run)
        assert "kill -1" not in said.out + said.err
        (run / ".lock").write_text(json.dumps(owner))
        os.utime(run / ".lock", (0, 0))


LOGS = {
    "a list": "[1]",
    "nested": '{"a":' * 50_000,
    "an event of words": '{"kind": "begin", "text": "x", "total": "<script>", "done": []}',
    "an event without words": '{"total": 1}',
    "a process without a host": '{"pid": "\\u001b[2J", "kind": ["\\u009b"], "text": {}, "time": 5}',
    "no text": "\udcff",
}


@pytest.mark.parametrize("case", LOGS)
def test_logs(circuits, run, case):
    (run / "log.jsonl").write_bytes(LOGS[case].encode(errors="surrogateescape"))
    said = circuits("logs", run)
    assert said.code == 0, said
    assert all(line.isprintable() for line in said.out.splitlines())
    assert len(said.out.splitlines()) <= 1


def test_a_log_of_a_gigabyte(circuits, run):
    with (run / "log.jsonl").open("w") as file:
        file.truncate(2**30)
    refused(circuits("logs", run), [1], ["log.jsonl", "1,073,741,824 bytes", "remove it"])


@pytest.mark.parametrize("text", ["[]", "{" * 50_000, '{"pid": "../../etc"}', '{"host": 1}'])
def test_locks(circuits, run, text):
    (run / ".lock").write_text(text)
    os.utime(run / ".lock", (0, 0))
    assert circuits("status", run).code == 0
    assert call(circuits, "resume", run).code == 0


@pytest.mark.parametrize("verb", ["show", "export"])
@pytest.mark.parametrize("option", ["--task", "--method"])
def test_ids_on_the_command_line(circuits, run, verb, option):
    first, *rest = READERS[verb]
    said = circuits(first, run, *rest, option, "../../outside/\x1b[2Jx\n")
    refused(said, [1], ["no ", "\\x1b[2Jx\\n", "eap" if option == "--method" else "induction"])


def test_a_folder_of_runs_with_a_bad_one(circuits, run):
    edit(run / "manifest.json", identity__tasks={BAD_ID: {}})
    said = circuits("list", run.parent)
    assert said.code == 0
    assert "cannot be read" in said.out


# --- decisions ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """A complete run of a pooled search; to be copied."""
    folder = tmp_path_factory.mktemp("searched")
    changes = {"tasks": [{"name": "induction", "count": 2}], "methods": [{"name": "acdc", "threshold": 0.01}]}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(toy_mapping(folder / "results", **changes)))
    assert main(["run", str(config), "--local"]) == 0
    (run,) = (folder / "results").iterdir()
    return run


def no_step(step):
    return {"receiver": "../../x"}


def words_for_numbers(step):
    step["decided"][0]["values"] = ["<script>"]
    return step


def other_senders(step):
    step["decided"][0]["senders"] = [10**9] * len(step["decided"][0]["senders"])
    return step


def fewer_prompts(step):
    step["decided"][0]["values"] = []
    return step


def a_state_that_is_none(step):
    step["decided"][0]["state"] = 77
    return step


def a_number_without_an_end(step):
    step["decided"][0]["delta"][0] = 1e999
    return step


def no_decision(step):
    return {**step, "decided": []}


@pytest.mark.parametrize(
    "forge",
    [
        no_step,
        words_for_numbers,
        other_senders,
        fewer_prompts,
        a_state_that_is_none,
        a_number_without_an_end,
        no_decision,
    ],
)
def test_decisions_that_do_not_go_on_are_made_again(circuits, searched, place, forge):
    """Sealed like ours: the digest over a record is no secret."""
    run = Path(shutil.copytree(searched, place.path / "run"))
    before = load_scores(run)
    for path in run.glob("decisions/**/receiver-*.json"):
        record = json.loads(path.read_text())
        step = forge(record["step"])
        text = json.dumps({**record, "step": step, "sha256": "?"})
        if "Infinity" not in text:
            text = json.dumps({**record, "step": step, "sha256": digest(step)})
        path.write_text(text.replace("Infinity", "1e999"))
    (scores,) = run.glob("scores/**/*.parquet")
    scores.unlink()
    said = call(circuits, "resume", run)
    assert said.code == 0, said.err
    assert "Traceback" not in said.err
    assert load_scores(run).equals(before)
