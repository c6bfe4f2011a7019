"""Shares of attention are what the stock model's own attention weights say, for every family's way of making them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import RunConfig, discover, load_model, open_run
from pipeline.core.errors import ConfigError
from pipeline.methods import Attention
from pipeline.schedule import make_plan, work_table
from pipeline.tasks import Ioi
from pipeline.verify import verify
from tests import kills
from tests.runs import toy_mapping

FROM, TO = ("io", "s1", "s1_next"), ("last", "s2")
ASKED = {"name": "attention", "from": list(FROM), "to": list(TO)}


@pytest.fixture(scope="module")
def model():
    return load_model("toy:trained", dtype="float64")


@pytest.fixture(scope="module")
def pairs(model):
    return Ioi(count=5).pairs(model.tokenizer, seed=0)


def columns(batch, name):
    """The positions of a place in the one prompt of a batch."""
    at = batch.at(name)
    return [int(i) for i in at[0].nonzero().flatten()]


def stock(model, pairs):
    """[prompt][side][layer, head, to, from] by the stock model's own attention weights, prompt by prompt."""
    model.hf.set_attn_implementation("eager")
    found = []
    for pair in pairs:
        batch, sides = model.batch([pair]), {}
        for side in ("clean", "corrupted"):
            with torch.no_grad():
                weights = model.hf(getattr(batch, side), output_attentions=True).attentions
            pattern = torch.stack(weights)[:, 0].numpy()  # [layer, head, query, key]
            sides[side] = np.stack(
                [
                    [
                        pattern[:, :, columns(batch, to)][..., columns(batch, span)].sum(-1).mean(-1)
                        for span in FROM
                    ]
                    for to in TO
                ]
            ).transpose(2, 3, 0, 1)
        found.append(sides)
    return found


def test_shares_are_those_of_the_stock_models_eager_attention(model, pairs):
    rows = Attention(**{"from": FROM, "to": TO}).score(model, model.batch(pairs).split(2))
    expected, graph = stock(model, pairs), model.graph
    assert len(rows) == 2 * graph.n_layers * graph.n_heads * len(TO) * len(FROM)
    for node, to, span, side, value, std, n in zip(
        *rows.keys.values(), rows.value, rows.std, rows.n_prompts, strict=True
    ):
        head = graph.senders[node]
        each = [one[side][head.layer, head.head, TO.index(to), FROM.index(span)] for one in expected]
        assert value == pytest.approx(np.mean(each), abs=1e-12)
        assert std == pytest.approx(np.std(each), abs=1e-12)
        assert n == len(pairs)


def test_each_prompts_share_is_kept_on_request(model, pairs):
    asked = Attention(**{"from": FROM, "to": TO, "heads": ("a1.h*", "a2.h3"), "per_prompt": True})
    rows = asked.score(model, model.batch(pairs).split(2))
    expected, graph = stock(model, pairs), model.graph
    assert len(rows) == 5 * 5 * len(TO) * len(FROM) * 2
    for node, to, span, side, prompt, value in zip(*rows.keys.values(), rows.value, strict=True):
        head = graph.senders[node]
        share = expected[prompt][side][head.layer, head.head, TO.index(to), FROM.index(span)]
        assert value == pytest.approx(share, abs=1e-12)


def test_a_long_batch_is_read_in_parts(model, pairs, monkeypatch):
    asked = Attention(**{"from": FROM})
    whole = asked.score(model, [model.batch(pairs)])
    monkeypatch.setattr("pipeline.engine.looking._AT_ONCE", 1)
    np.testing.assert_allclose(
        asked.score(model, [model.batch(pairs)]).value, whole.value, rtol=0, atol=1e-12
    )


def test_prompts_that_lack_a_span_are_left_out(model, pairs):
    rows = Attention(**{"from": "nowhere"}).score(model, [model.batch(pairs)])
    assert len(rows) == 0


def test_what_cannot_be_meant_is_refused(model):
    with pytest.raises(ConfigError, match="name spans, or last"):
        Attention(**{"from": "all"}).check("float32")
    with pytest.raises(ConfigError, match=r"no head 'a9.h0'"):
        Attention(**{"from": "io", "heads": "a9.h0"}).check_names(model.graph)


# --- runs ---------------------------------------------------------------------------------------------------


def mapping(folder, **changes):
    settings = {
        "model": {"name": "toy:trained"},
        "tasks": [{"name": "ioi", "count": 6}],
        "methods": [ASKED | {"as": "looks"}, ASKED | {"heads": "a2.*", "per_prompt": True, "as": "each"}],
        "shards": {"prompts": 2},
    }
    return toy_mapping(folder, **settings) | changes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return discover(RunConfig.from_mapping(mapping(tmp_path_factory.mktemp("runs"))), local=True, quiet=True)


def test_shards_merge_into_the_mean_over_all_prompts(run):
    model = load_model("toy:trained")
    batch = model.batch(run.prompts("ioi"))
    whole = Attention(**{"from": FROM, "to": TO}).score(model, [batch]).to_frame()
    keys = ["node", "span_to", "span", "quantity"]
    whole["node"] = [model.graph.senders[index].name for index in whole["node"]]
    merged = run.scores(method="looks").set_index(keys)
    expected = whole.set_index(keys)
    assert len(merged) == len(expected)
    assert (merged["n_prompts"] == 6).all()
    assert (merged["n_shards"] == 3).all()
    np.testing.assert_allclose(merged["share"].loc[expected.index], expected["share"], atol=1e-6)
    spread = expected["share_std"] * np.sqrt(6 / 5)  # of a sample
    np.testing.assert_allclose(merged["share_std"].loc[expected.index], spread, atol=1e-6)


def test_kept_prompts_have_the_mean_of_the_others(run):
    each = run.scores(method="each")
    assert sorted(set(each["prompt_id"])) == list(range(6))
    means = each.groupby(["node", "span_to", "span", "quantity"], observed=True)["share"].mean()
    merged = run.scores(method="looks").set_index(["node", "span_to", "span", "quantity"])["share"]
    assert len(means) == 4 * 12
    np.testing.assert_allclose(means, merged.loc[means.index], atol=1e-6)


def test_what_is_planned_is_what_is_done(run):
    plan = make_plan(RunConfig.load(run.path / "run.yaml"))
    table = {row["method"]: row for row in work_table(plan)}
    for method, folder in (("looks", "attention"), ("each", "prompt_attention")):
        files = sorted((run.path / folder).rglob("*.parquet"))
        assert [path for path in files if f"method={method}" in str(path)] == files
        assert sum(pq.read_metadata(path).num_rows for path in files) == table[method]["rows"]
        assert table[method]["forward_passes"] == 2 * 6


def test_the_page_has_a_panel_and_the_run_verifies(run):
    assert not verify(run.path).damaged
    page = (run.path / "report.html").read_text()
    assert "Where heads look" in page
    for word in ("from last: the share of each", "from s2: the share of each", "io, corrupted"):
        assert word in page
    assert json.loads((run.path / "manifest.json").read_text())["methods"]["each"]["level"] == "node"
    assert open_run(run.path).is_complete


@pytest.mark.slow
def test_killed_between_its_files_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    config = mapping("results", methods=[ASKED | {"heads": "a2.*"}, ASKED | {"per_prompt": True}])
    monkeypatch.setattr(kills, "CONFIGS", {"first": config})
    phase = kills.PHASES["run"]
    folder = kills.place_of(tmp_path, "undisturbed", phase, tmp_path)
    code, total = kills.command(folder, phase.command)
    assert code == 0, (folder / "said.txt").read_text()
    expected = kills.outcome(folder / "run")
    assert any(name.startswith("ioi/attention") for name in expected)
    for kill_at in (total // 3, 2 * total // 3):
        folder = kills.place_of(tmp_path, "killed", phase, tmp_path)
        assert kills.command(folder, phase.command, kill_at=kill_at)[0] == -9
        assert kills.command(folder, phase.command)[0] == 0, (folder / "said.txt").read_text()
        assert kills.outcome(folder / "run") == expected
