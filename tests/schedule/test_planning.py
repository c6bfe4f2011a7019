"""Plans: items in order, keys that change when they must and only then, counts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.core.errors import ConfigError, ModelError, PromptError, RunDirectoryError
from pipeline.core.items import Item
from pipeline.models.toy import toy_path
from pipeline.schedule import Plan, make_plan, work_table
from pipeline.store.run.opened import open_run
from tests.oracles import models
from tests.tokenizers import tokenizer


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a model and a file of eight pairs of prompts of one length."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy_path("toy:planted"), tmp_path / "model")
    write_pairs(tmp_path / "pairs.jsonl", [pair(i) for i in range(8)])
    return tmp_path


def pair(i: int, length: int = 4) -> dict:
    clean = [(i + k) % 7 + 1 for k in range(length)]
    return {"clean": clean, "corrupted": [*clean[:-1], 9], "answers": [1], "wrong_answers": [2, 3]}


def write_pairs(path: Path, pairs: list[dict]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in pairs))


def plan(**changes) -> Plan:
    mapping = {
        "name": "t",
        "model": {"name": "model"},
        "tasks": [{"name": "file", "path": "pairs.jsonl"}],
        "methods": [
            {"name": "eap"},
            {"name": "acdc", "scope": "shard", "as": "acdc"},
            {"name": "node_patching"},
        ],
        "shards": {"prompts": 3},
    }
    return make_plan(RunConfig.from_mapping({**mapping, **changes}))


def keys(a_plan: Plan) -> dict[str, str]:
    return {item.name: a_plan.item_key(item) for item in a_plan.items}


# --- prompts -----------------------------------------------------------------------------------------------


def test_asking_for_the_token_for_the_beginning_makes_another_run_and_not_asking_does_not(folder):
    tokenizer("words", "nothing").save_pretrained(folder / "model")
    settings = json.loads((folder / "model" / "tokenizer_config.json").read_text())
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": "<s>"}))
    texts = {
        "clean": "Mary went to",
        "corrupted": "John went to",
        "answers": [" Mary"],
        "wrong_answers": [" John"],
    }
    for entry in (pair(1), texts):
        write_pairs(folder / "pairs.jsonl", [entry])
        task = {"name": "file", "path": "pairs.jsonl"}
        silent, said, asked = (
            plan(tasks=[{**task, **bos}]) for bos in ({}, {"bos": "tokenizer"}, {"bos": "add"})
        )
        assert silent.run_key == said.run_key != asked.run_key
        assert silent.config.to_yaml() == said.config.to_yaml() != asked.config.to_yaml()
        assert RunConfig.from_mapping(asked.config.to_mapping()) == asked.config
        (plain,), (begun,) = silent.tokens["pairs"], asked.tokens["pairs"]
        assert begun.clean == (1, *plain.clean)
        assert begun.corrupted == (1, *plain.corrupted)
        assert begun.answers == plain.answers
        with pytest.raises(ConfigError, match=r"'pairs' has other parameters in the run"):
            silent.config.extended_by(asked.config)


# --- items -------------------------------------------------------------------------------------------------


def test_items_come_shard_by_shard_with_the_baseline_first(folder):
    names = [item.name for item in plan().items]
    assert names == [
        f"pairs/{method}/{shard}"
        for shard in range(3)
        for method in ("baseline", "eap", "acdc", "node_patching")
    ]
    assert {item.kind for item in plan().items if item.method == "node_patching"} == {"node_scores"}


def test_means_come_first_and_only_when_they_are_used(folder):
    items = plan(ablation="mean").items
    assert items[0] == Item("statistics", "pairs", None, 0)
    assert [item.kind for item in items].count("statistics") == 1
    one = plan(methods=[{"name": "eap"}, {"name": "eap", "ablation": "mean_positional"}]).items
    assert [item.kind for item in one].count("statistics") == 1
    assert "statistics" not in {item.kind for item in plan(ablation="zero").items}


def test_every_prompt_is_in_one_shard(folder):
    a_plan = plan()
    ids = [token.prompt_id for i in a_plan.items if i.method == "eap" for token in a_plan.prompts(i)]
    assert ids == list(range(8))


# --- counts ------------------------------------------------------------------------------------------------


def test_costs_add_up_over_the_table(folder):
    a_plan = plan(ablation="mean")
    rows = {row["method"]: row for row in work_table(a_plan)}
    assert list(rows) == ["statistics", "baseline", "eap", "acdc", "node_patching"]
    assert (rows["statistics"]["items"], rows["statistics"]["forward_passes"]) == (1, 8)
    # two metrics (logit_diff, and acdc's divergence), clean and corrupted passes of 8 prompts
    assert (rows["baseline"]["items"], rows["baseline"]["forward_passes"], rows["baseline"]["rows"]) == (
        3,
        16,
        16,
    )
    n_edges = a_plan.graph.n_edges
    assert (rows["eap"]["edges"], rows["eap"]["rows"], rows["eap"]["backward_passes"]) == (
        n_edges,
        3 * n_edges,
        8,
    )
    for count in ("forward_passes", "backward_passes", "evaluations", "rows"):
        assert sum(row[count] for row in rows.values()) == getattr(a_plan.total, count)
        assert sum(getattr(a_plan.cost(item), count) for item in a_plan.items) == getattr(a_plan.total, count)
    assert a_plan.rows == a_plan.total.rows
    assert a_plan.memory_bytes > 0


# --- keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"cluster": {"workers": 5, "batch_size": 2}},
        {"evaluate": {"edge_fractions": [0.5]}},
        {"failures": {"retries": 9}},
        {"output": "x"},
    ],
)
def test_how_and_where_change_no_key(folder, changes):
    assert plan(**changes).run_key == plan().run_key
    assert keys(plan(**changes)) == keys(plan())


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"model": {"name": "model", "dtype": "float64"}},
        {"ablation": "zero"},
        {"shards": {"prompts": 2}},
        {"tasks": [{"name": "file", "path": "pairs.jsonl", "attention": "bidirectional"}]},
    ],
)
def test_what_changes_scores_changes_the_run_and_every_score(folder, changes):
    before, after = plan(), plan(**changes)
    assert before.run_key != after.run_key
    scores = [item.name for item in before.items if item.method is not None]
    assert all(keys(before)[name] != keys(after).get(name) for name in scores)


def test_a_moved_prompt_file_or_model_is_the_same_run(folder):
    before = plan()
    (folder / "data").mkdir()
    shutil.move("pairs.jsonl", "data/pairs.jsonl")
    shutil.move("model", "data/model")
    after = plan(tasks=[{"name": "file", "path": "data/pairs.jsonl"}], model={"name": "data/model"})
    assert after.run_key == before.run_key
    assert keys(after) == keys(before)


def test_an_edited_prompt_changes_its_shard_alone(folder):
    before = plan()
    pairs = [pair(i) for i in range(8)]
    pairs[4]["wrong_answers"] = [5]
    write_pairs(folder / "pairs.jsonl", pairs)
    after = plan()
    assert after.run_key != before.run_key
    changed = {name for name, key in keys(after).items() if keys(before)[name] != key}
    assert changed == {f"pairs/{method}/1" for method in ("baseline", "eap", "acdc", "node_patching")}


def with_spans(folder, spans, first=0):
    """Writes eight pairs, of which those from `first` on name the spans."""
    rows = [pair(i) | ({"spans": spans} if i >= first else {}) for i in range(8)]
    write_pairs(folder / "pairs.jsonl", rows)


NAMED = [{"name": "eap"}, {"name": "eap", "positions": "subject"}]


def test_spans_that_nothing_reads_change_no_key(folder):
    before = plan()
    with_spans(folder, {"subject": [0, 2]})
    assert plan().run_key == before.run_key
    assert keys(plan()) == keys(before)


def test_a_span_that_moves_changes_what_reads_it_alone(folder):
    with_spans(folder, {"subject": [0, 2], "verb": [2, 3]})
    before = plan(methods=NAMED)
    with_spans(folder, {"subject": [0, 2], "verb": [1, 3]}, first=1)
    first_lacks_it = plan(methods=NAMED)
    assert first_lacks_it.run_key != before.run_key
    assert {name for name, key in keys(before).items() if keys(first_lacks_it)[name] != key} == {
        "pairs/eap-subject/0"
    }
    with_spans(folder, {"subject": [0, 2]})
    assert plan(methods=NAMED).run_key == before.run_key


def test_a_span_that_no_prompt_has_is_one_line_with_those_that_there_are(folder):
    with pytest.raises(
        PromptError, match=r"task pairs: no prompt has the span 'subject' that eap-subject reads; its "
    ):
        plan(methods=NAMED)
    with_spans(folder, {"subjekt": [0, 2], "verb": [2, 3]}, first=7)
    with pytest.raises(
        PromptError, match=r"eap-subject reads; did you mean 'subjekt'\? known: subjekt, verb$"
    ):
        plan(methods=NAMED)


def test_prompts_without_the_span_cost_nothing(folder):
    with_spans(folder, {"subject": [0, 2]}, first=4)
    methods = [{"name": name, "positions": "subject"} for name in ("eap", "node_patching")]
    rows = {row["method"]: row for row in work_table(plan(methods=methods))}
    assert (rows["eap-subject"]["forward_passes"], rows["eap-subject"]["backward_passes"]) == (8, 4)
    n_senders = plan().graph.n_senders
    assert rows["node_patching-subject"]["evaluations"] == 4 * n_senders


def test_under_a_mean_every_shard_depends_on_every_prompt(folder):
    before = plan(ablation="mean")
    pairs = [pair(i) for i in range(8)]
    pairs[4]["corrupted"][0] = 6
    write_pairs(folder / "pairs.jsonl", pairs)
    after = plan(ablation="mean")
    changed = {name for name, key in keys(after).items() if keys(before)[name] != key}
    assert {name for name in keys(after) if "baseline" not in name} | {"pairs/baseline/1"} == changed


def test_an_edited_model_changes_everything(folder):
    before = plan()
    weights = folder / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    after = plan()
    assert after.run_key != before.run_key
    assert not set(keys(after).values()) & set(keys(before).values())


def test_another_method_leaves_the_items_of_the_first_as_they_were(folder):
    small = plan(methods=[{"name": "eap"}])
    large = plan(methods=[{"name": "eap"}, {"name": "eap_ig"}])
    assert small.run_key != large.run_key
    assert keys(small).items() <= keys(large).items()


def test_more_prompts_leave_the_full_shards_as_they_were(folder):
    before = keys(plan())
    write_pairs(folder / "pairs.jsonl", [pair(i) for i in range(9)])
    after = keys(plan())
    assert [name for name in before if before[name] != after[name]] == [
        name for name in before if name[-1] == "2"
    ]


# --- refused -----------------------------------------------------------------------------------------------


def test_positional_means_refuse_mixed_lengths_by_name(folder):
    write_pairs(folder / "pairs.jsonl", [pair(0, 4), pair(1, 5)])
    with pytest.raises(ConfigError, match="task pairs: has prompts of 4 to 5 tokens"):
        plan(ablation="mean_positional")
    assert plan(ablation="mean").items


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"corrupted": [1, 2]}, r"pairs\.jsonl:1: clean has 4 tokens and corrupted 2"),
        ({"wrong_answers": []}, r"pairs\.jsonl:1: .*wrong"),
        ({"answers": [10**6]}, r"pairs\.jsonl:1: .*vocabulary"),
    ],
)
def test_prompts_that_cannot_be_used_are_named(folder, change, words):
    write_pairs(folder / "pairs.jsonl", [{**pair(0), **change}])
    with pytest.raises(PromptError, match=words):
        plan()


def test_wrong_answers_are_needed_only_where_a_metric_compares(folder):
    write_pairs(folder / "pairs.jsonl", [{**pair(0), "wrong_answers": []}])
    assert plan(metric="nll").items
    with pytest.raises(PromptError):
        plan(metric="nll", methods=[{"name": "eap", "metric": "prob_diff"}])


def test_unknown_models_and_missing_files_are_one_line(folder):
    with pytest.raises(ModelError, match="nowhere"):
        plan(model={"name": "./nowhere"})
    with pytest.raises(PromptError, match=r"none\.jsonl"):
        plan(tasks=[{"name": "file", "path": "none.jsonl"}])


# --- the run directory -------------------------------------------------------------------------------------


def test_a_written_plan_holds_the_items_keys_and_prompts(folder):
    a_plan = plan()
    directory = a_plan.write()
    assert directory.path == Path("results") / a_plan.run_id
    assert directory.item_keys == a_plan.item_keys
    assert directory.graph == a_plan.graph
    assert directory.prompts("pairs", 1) == a_plan.tokens["pairs"][3:6]
    written = RunConfig.load(directory.path / "run.yaml")
    assert written == a_plan.config.anchored(), "so that it is resumed from any folder"
    assert Path(written.model.name).is_absolute()
    assert Path(written.tasks[0].path).is_absolute()
    run = open_run(directory.path)
    assert run.status()["missing"] == len(a_plan.items)
    assert run.methods == ("eap", "acdc", "node_patching")
    assert run.level("node_patching") == "node"


def test_generated_text_survives_the_run_directory(folder):
    a_plan = plan(tasks=[{"name": "induction", "count": 5}], model={"name": "toy:planted"})
    assert a_plan.write("run").prompts("induction") == a_plan.tokens["induction"]


def test_a_run_is_extended_by_a_span_that_its_prompts_did_not_name_before(folder):
    first = plan(methods=NAMED[:1])
    first.write("run")
    with_spans(folder, {"subject": [0, 2]}, first=2)
    both = make_plan(first.config.extended_by(plan(methods=NAMED[1:]).config))
    extended = both.write("run", extend=True)
    assert first.item_keys.items() <= extended.item_keys.items()
    assert [list(token.spans) for token in extended.prompts("pairs")] == [[], []] + [["subject"]] * 6

    with_spans(folder, {"subject": [1, 2]}, first=2)
    with pytest.raises(RunDirectoryError, match=r"spans\.pairs/subject has other contents there"):
        plan(methods=NAMED).write("run")


def test_an_extended_plan_keeps_the_keys_of_the_run(folder):
    first = plan(methods=[{"name": "eap"}])
    directory = first.write("run")
    both = make_plan(first.config.extended_by(plan(methods=[{"name": "eap_ig"}]).config))
    extended = both.write("run", extend=True)
    assert extended.path == directory.path
    assert first.item_keys.items() <= extended.item_keys.items()
    assert first.write("run").items == extended.items


@pytest.mark.slow
def test_another_process_plans_the_same_keys_and_loads_no_orchestrator_and_no_torch_of_its_own(folder):
    """The weights of a folder are looked at with transformers, which brings torch along once a plan is made."""
    a_plan = plan()
    (folder / "c.yaml").write_text(a_plan.config.to_yaml())
    code = (
        "import sys; from pipeline.config import RunConfig; from pipeline.schedule import make_plan\n"
        "print(sorted({'ray', 'prefect', 'torch', 'transformers'} & set(sys.modules)))\n"
        "p = make_plan(RunConfig.load('c.yaml')); p.write(); print(p.run_key, p.item_key(p.items[-1]))\n"
        "print(sorted({'ray', 'prefect'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[]", a_plan.run_key, a_plan.item_key(a_plan.items[-1]), "[]"]
    assert a_plan.run_id == f"t-{a_plan.run_key[:6]}"


@pytest.mark.parametrize(("kind", "is_part"), [("olmo2", True), ("llama", False)])
def test_what_heads_write_is_part_of_the_identity_where_a_norm_follows_attention(folder, kind, is_part):
    models.save(models.build(kind), folder / kind)
    plans = [plan(model={"name": kind} | more) for more in ({}, {"post_norm": "mixed"}, {"post_norm": "own"})]
    assert plans[0].run_key == plans[1].run_key
    assert (plans[1].run_key != plans[2].run_key) == is_part
    for a_plan in plans:
        assert ("post_norm" in a_plan.manifest()["model"]) == is_part
        assert ("post_norm" in a_plan.identity["model"]) == is_part


def test_a_run_is_extended_with_one_reading_of_what_heads_write(folder):
    other = plan(model={"name": "model", "post_norm": "own"}).config
    with pytest.raises(ConfigError, match="post_norm is mixed"):
        plan().config.extended_by(other)
