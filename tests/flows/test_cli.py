"""The verbs: what they print where, and what their exit codes mean. Computing happens in this process."""

import json
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import pipeline
from flows.cli import main
from pipeline.core.errors import ScoreError
from pipeline.methods import Eap
from tests.processes import GUARD_SECONDS
from tests.runs import score_files, toy_mapping
from tests.slowly import slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A complete run, made by the command line; to be read only."""
    folder = tmp_path_factory.mktemp("cli")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(toy_mapping(folder / "results")))
    assert main(["run", str(config), "--local"]) == 0
    (run,) = (folder / "results").iterdir()
    return run


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / finished.name))


@pytest.fixture
def done(finished, tmp_path):
    """A copy of the run where the config that `config_file` writes has it."""
    return Path(shutil.copytree(finished, tmp_path / "results" / finished.name))


SMALL = {
    "methods": [{"name": "eap"}],
    "tasks": [{"name": "induction", "count": 2}],
    "evaluate": {"edge_fractions": [0.5]},
}


def test_plan_counts_without_making_anything(circuits, config_file, tmp_path):
    said = circuits("plan", config_file(), "--json")
    assert said.code == 0
    assert len(said.data["items"]) == 9
    assert said.data["done"] == 0
    assert [(row["method"], row["items"], row["prompts"]) for row in said.data["rows"]] == [
        ("baseline", 3, 12),
        ("eap", 3, 12),
        ("acdc", 3, 12),
    ]
    (evaluation,) = said.data[
        "evaluation"
    ]  # 12 prompts: 2 circuits of eap that are not the whole graph, 1 of acdc
    assert (evaluation["method"], evaluation["evaluations"]) == ("faithfulness", 12 * (2 + 1))
    for what in ("forward_passes", "evaluations", "rows"):
        parts = [*said.data["rows"], evaluation]
        assert said.data["totals"][what] == sum(part[what] for part in parts)
    assert said.data["totals"]["evaluations_at_most"] is True
    assert not (tmp_path / "results").exists()


def test_plan_prints_a_table_for_people(circuits, config_file):
    said = circuits("plan", config_file())
    assert said.code == 0
    assert "evals (evaluations)" in said.out
    assert " faithfulness " in said.out
    assert "memory of a worker" in said.out
    assert "0 of 9 items done" in said.out


def test_plan_says_how_much_is_done(circuits, finished):
    score_files(finished)
    said = circuits("plan", finished / "run.yaml", "--json")
    assert said.data["done"] == 9


def test_a_run_prints_a_line_per_item_to_stderr_and_the_result_to_stdout(circuits, config_file):
    said = circuits("run", config_file(), "--local")
    assert said.code == 0
    assert said.err.splitlines()[0].startswith("9 of 9 items to do")
    assert sum(line.startswith("[") for line in said.err.splitlines()) == 9
    assert said.out.startswith("complete: 9 items in ")
    again = circuits("run", config_file(), "--local")
    assert again.code == 0
    assert again.err == ""
    assert again.out.startswith("complete, nothing to do")


def test_overrides_change_any_field(circuits, config_file):
    said = circuits(
        "plan",
        config_file(),
        "--set",
        "methods.0={name: eap_ig, steps: 3}",
        "--set",
        "shards.prompts=6",
        "--json",
    )
    assert {row["method"] for row in said.data["rows"]} == {"baseline", "eap_ig-3", "acdc"}
    assert len(said.data["items"]) == 6


def test_quiet_says_how_it_ended_and_nothing_before(circuits, config_file):
    said = circuits("run", config_file(**SMALL), "--local", "--quiet")
    assert said.code == 0
    assert said.err == ""
    assert said.out.startswith("complete: 2 items in ")


def test_the_version_is_that_of_the_package(circuits):
    assert circuits("--version").out == f"circuits {version('circuits-pipeline')}\n"
    assert pipeline.__version__ == version("circuits-pipeline")


@pytest.mark.parametrize(
    ("shell", "variables"),
    [
        ("bash", {"COMP_WORDS": "circuits sta", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "circuits sta"}),
    ],
)
def test_a_shell_completes_verbs(circuits, monkeypatch, shell, variables):
    monkeypatch.setenv("_CIRCUITS_COMPLETE", f"complete_{shell}")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = circuits()
    assert "status" in said.out
    assert "resume" not in said.out


@pytest.mark.parametrize("columns", ["60", *slow("80"), None])
def test_every_table_fits_the_terminal_and_80_letters_where_there_is_none(
    circuits, config_file, finished, monkeypatch, columns
):
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    config = config_file(tasks=[{"name": "induction", "count": 1000}], methods=[{"name": "edge_patching"}])
    calls = [
        ["plan", config],
        ["show", finished],
        ["show", "--pareto", finished],
        ["status", finished],
        ["list"],
    ]
    for call in [*calls, ["list", finished.parent]]:
        said = circuits(*call)
        assert said.code == 0
        of_tables = [line for line in said.out.splitlines() if re.search(r"^$|─|  ", line)]
        assert len(of_tables) > 2
        assert max(map(len, of_tables)) <= int(columns or 80), call


def test_json_is_all_that_is_on_stdout(circuits, config_file):
    said = circuits("run", config_file(**SMALL), "--local", "--json")
    assert said.code == 0
    assert said.data["complete"] is True
    assert said.data["missing"] == []
    assert Path(said.data["report"]).is_file()


def test_plan_and_status_say_what_is_kept_by_prompt(circuits, config_file, done):
    config = config_file(store={"prompt_scores": True})
    said = circuits("plan", config)
    assert (
        "scores by prompt: of eap, 12.7 KB in float32" in said.out
    )  # 12 prompts x (262 edges x 4 + 8) bytes
    assert "no scores by prompt: of acdc" in said.out
    assert circuits("plan", config_file()).out.count("by prompt") == 0
    config = config_file(store={"prompt_scores": True})
    path = circuits("run", config, "--local", "--json").data["path"]
    assert "scores by prompt: 3 files" in circuits("status", path).out
    assert circuits("status", path, "--json").data["prompt_scores"]["methods"] == ["eap"]
    assert circuits("plan", config_file(), "--json").data["done"] == 9
    again = circuits("plan", config_file(store={"prompt_scores": True, "dtype": "float16"}), "--json")
    assert again.data["done"] == 9


def test_plan_sees_that_items_lack_the_scores_by_prompt(circuits, config_file, done):
    said = circuits("plan", config_file(store={"prompt_scores": True}), "--json")
    assert said.data["done"] == 6


def test_missing_items_are_exit_3_until_they_are_there(circuits, config_file, monkeypatch):
    def score(*_, **__):
        raise ScoreError("2 of 262 edge scores are not finite")

    with monkeypatch.context() as patch:
        patch.setattr(Eap, "run", score)
        config = config_file(methods=SMALL["methods"], failures={"tolerate": 1.0})
        said = circuits("run", config, "--local", "--json")
    assert said.code == 3
    assert said.data["missing"] == [f"induction/eap/{shard}" for shard in range(3)]
    path = said.data["path"]

    status = circuits("status", path)
    assert status.code == 3
    assert "3 of 6 items missing" in status.out
    assert f"next: circuits failures {path}" in status.out

    failures = circuits("failures", path)
    assert failures.code == 3
    assert "induction/eap/0 attempt 1" in failures.out
    assert "not finite" in failures.out
    assert f"circuits resume --failed {path}" in failures.out
    assert f"circuits resume {path}" not in failures.out, "which would not try them again"
    assert len(circuits("failures", path, "--json").data["records"]) == 3

    assert circuits("resume", path, "--local").code == 3, "bad data is not tried again by itself"
    assert circuits("resume", "--failed", path, "--local").code == 0
    assert circuits("status", path).code == 0
    assert circuits("failures", path).out == "no failures\n"


def test_what_cannot_be_written_is_one_line(circuits, finished, tmp_path):
    (tmp_path / "file").write_text("")
    said = circuits("export", finished, "--format", "csv", "--out", tmp_path / "file")
    assert said.code == 1
    assert said.err.startswith(f"error: {tmp_path / 'file'}")
    assert said.err.endswith("check the path, its permissions and the space left\n")


def test_status_of_a_complete_run(circuits, finished):
    said = circuits("status", finished)
    assert said.code == 0
    assert said.out.rstrip().endswith("complete")
    assert circuits("status", finished, "--json").data["done"] == 9


def test_show_prints_edges_with_error_bars_and_faithfulness(circuits, finished):
    said = circuits("show", finished, "--top", 3)
    assert said.code == 0
    assert "m2->logits" in said.out
    assert "95 % interval" in said.out
    assert re.search(r"^\S+: \w+ is \S+ with all edges, \S+ with none$", said.out, re.MULTILINE)
    assert re.search(r"^method +share +edges +without dangling +\w+ +faithfulness$", said.out, re.MULTILINE)
    said = circuits("show", finished, "--pareto")
    assert re.search(r"^method +threshold +share +edges +\w+ +faithfulness +best$", said.out, re.MULTILINE)
    data = circuits("show", finished, "--method", "eap", "--top", 3, "--json").data
    assert [result["method"] for result in data["results"]] == ["eap"]
    assert len(data["results"][0]["top"]) == 3
    assert {row["method"] for row in data["faithfulness"]} == {"eap"}


def test_show_of_a_name_that_the_run_lacks(circuits, finished):
    said = circuits("show", finished, "--method", "eapp")
    assert said.code == 1
    assert said.err == "error: no method 'eapp' in this run; it has eap, acdc\n"


def test_report_is_written_anew(circuits, run):
    (run / "report.html").unlink()
    said = circuits("report", run)
    assert said.code == 0
    assert Path(said.out.strip()).read_text().startswith("<!")


def test_export_writes_files_for_others(circuits, run, tmp_path):
    said = circuits("export", run, "--format", "mib", "--method", "acdc", "--out", tmp_path / "mib", "--json")
    assert said.code == 0
    (path,) = said.data["files"]
    edges = json.loads(Path(path).read_text())["edges"]
    assert len(edges) == 262
    said = circuits("export", run, "--format", "csv", "--top", 5, "--method", "eap", "--json")
    (path,) = said.data["files"]
    assert len(Path(path).read_text().splitlines()) == 6


def test_a_circuit_of_somebody_else_is_judged_beside_ours(circuits, config_file, tmp_path):
    listed = tmp_path / "theirs.csv"
    listed.write_text("edge,score\ninput->logits,0.5\n")
    config = config_file(
        tasks=[{"name": "induction", "count": 2}], methods=["eap"], evaluate={"edge_fractions": [0.5]}
    )
    said = circuits("import", listed, config, "--local", "--quiet", "--json")
    assert (said.code, said.data["complete"]) == (0, True)
    run = pipeline.open_run(said.data["path"])
    assert run.methods == ("eap", "file-theirs")
    assert run.edge_scores("file-theirs", "induction").score[run.graph.edge_id("input->logits")] == 0.5
    listed.write_text("edge,score\ninput->m9,0.5\n")
    said = circuits("import", listed, config, "--alone", "--local")
    assert said.code == 2
    assert said.err.startswith(
        f"error: methods (file-theirs): {listed}: line 2: 'input->m9' is not in this model: "
    )


def test_list_names_what_a_config_may_name(circuits):
    data = circuits("list", "--json").data
    assert {"eap", "eap_ig", "acdc", "edge_patching", "node_patching"} <= {m["name"] for m in data["methods"]}
    assert {"ioi", "induction", "greater_than", "file"} <= {task["name"] for task in data["tasks"]}
    assert "logit_diff" in {metric["name"] for metric in data["metrics"]}
    for section in ("methods", "tasks", "metrics", "ablations"):
        assert all(len(entry["does"].split()) > 2 for entry in data[section])
    assert {"verdict", "minimality"} <= {entry["name"] for entry in data["evaluations"]}
    assert next(task for task in data["tasks"] if task["name"] == "file")["parameters"]["columns"] == {}
    said = circuits("list")
    assert said.code == 0
    assert "columns={}" in said.out
    assert "limit=null" in said.out
    assert all(entry["does"].split()[0] in said.out for entry in data["methods"])


def test_list_names_the_runs_in_a_folder(circuits, finished, tmp_path):
    said = circuits("list", finished.parent, "--json")
    assert [(run["run"], run["complete"]) for run in said.data["runs"]] == [(finished.name, True)]
    assert finished.name in circuits("list", finished.parent).out
    assert circuits("list", tmp_path / "nowhere").code == 1


def test_schema_admits_the_demo_and_names_every_section(circuits, root):
    schema = circuits("schema").data
    assert {"name", "model", "tasks", "methods", "cluster", "evaluate"} <= set(schema["properties"])
    demo = yaml.safe_load((root / "flows/configs/demo.yaml").read_text())
    assert set(demo) <= set(schema["properties"])


def test_extend_and_run_dir_exclude_each_other(circuits, config_file, finished):
    said = circuits("run", config_file(), "--extend", finished, "--run-dir", finished)
    assert said.code == 2


def test_the_same_mistake_has_the_same_code_in_every_verb(circuits, config_file, finished, tmp_path):
    """What is typed and means nothing is 2, what is not there is 1."""
    nowhere, config = tmp_path / "nowhere", config_file()
    for call in (
        "status",
        "show",
        "resume",
        "verify",
        "gc",
        "logs",
        "cancel",
        "list",
        f"run {config} --extend",
    ):
        said = circuits(*call.split(), nowhere)
        assert said.code == 1, call
        assert str(nowhere) in said.err
    for call in (["show"], ["show", "--pareto"], ["export", "--format", "csv"]):
        for what in ("task", "method"):
            said = circuits(*call, finished, f"--{what}", "eapp")
            assert said.code == 1, call
            assert f"no {what} 'eapp'" in said.err
    for verb in ("plan", "run", "submit"):
        assert circuits(verb, nowhere).code == 2
        assert circuits(verb, config, "--set", "methods.9=eap").code == 2


def test_extend_adds_a_method_to_a_run(circuits, config_file, run):
    said = circuits("run", config_file(methods=[{"name": "eap_ig"}]), "--extend", run, "--local", "--json")
    assert said.code == 0
    assert said.data["items"] == 12
    assert said.data["path"] == str(run)


def test_reading_a_run_imports_neither_torch_nor_ray_nor_prefect(finished, tmp_path):
    probe = f"""
import sys
from flows.cli import main
for verb in ("status", "failures", "show", "report", "list", "export"):
    words = ["--format", "csv", "--out", {str(tmp_path)!r}] if verb == "export" else []
    assert main([verb, {str(finished)!r}, *words]) == 0, verb
print(*sorted({{"torch", "ray", "prefect", "transformers"}} & set(sys.modules)), file=sys.stderr)
"""
    command = [sys.executable, "-c", probe]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=GUARD_SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "\n"


@pytest.mark.parametrize(
    "verb",
    [
        "plan",
        "run",
        "resume",
        "status",
        "failures",
        "show",
        "report",
        "export",
        "logs",
        "cancel",
        "reproduce",
    ],
)
def test_every_verb_has_help_and_needs_its_argument(circuits, verb):
    assert circuits(verb, "--help").code == 0
    assert circuits(verb).code == 2


@pytest.mark.parametrize("verb", ["status", "failures", "show", "report", "resume", "logs", "cancel"])
def test_a_folder_that_is_no_run_is_said_so(circuits, verb, tmp_path):
    said = circuits(verb, tmp_path)
    assert said.code == 1
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1


def test_a_bug_is_one_line_unless_its_traceback_is_asked_for(circuits, config_file, monkeypatch, tmp_path):
    def make_plan(_):
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr("pipeline.schedule.make_plan", make_plan)
    monkeypatch.chdir(tmp_path)
    said = circuits("plan", config_file())
    assert said.code == 1
    assert said.err == "error: unexpected ZeroDivisionError: oh no (CIRCUITS_DEBUG=1 keeps the traceback)\n"
    monkeypatch.setenv("CIRCUITS_DEBUG", "1")
    circuits("plan", config_file())
    (kept,) = tmp_path.glob("circuits-traceback-*.txt")
    assert "test_cli.py" in kept.read_text()


def test_a_stopped_run_says_how_it_goes_on(circuits, config_file, monkeypatch):
    def conduct(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.schedule.conduct.conduct", conduct)
    said = circuits("run", config_file(), "--local")
    assert said.code == 130
    assert said.err == "stopped; the same command goes on where it was\n"


def test_what_fails_because_a_command_was_stopped_is_said_as_a_stop(circuits, config_file, monkeypatch):
    def prepare(*_):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise ConnectionError("gone first")

    monkeypatch.setattr("pipeline.schedule.preparing.prepare", prepare)
    said = circuits("run", config_file(), "--local")
    assert said.code == 130
    assert said.err == "stopped; the same command goes on where it was\n"
