"""Exact patching of single edges and nodes against dense patched forwards, prompt by prompt."""

import numpy as np
import pandas as pd
import pytest

from pipeline.ablations import collect_statistics, needs_statistics
from pipeline.methods import EdgePatching, NodePatching
from tests.exactness import PADDINGS, relative_error
from tests.oracles import models


def statistics_of(setting, ablation):
    return collect_statistics(setting.model, [setting.batch]) if needs_statistics(ablation) else None


def found_edges(setting, metric="logit_diff", ablation="corrupted", **options):
    scores = EdgePatching(**options).score(
        setting.model, [setting.batch], metric=metric, ablation=ablation,
        statistics=statistics_of(setting, ablation), per_prompt=True,
    )  # fmt: skip
    np.testing.assert_allclose(scores.score, scores.per_prompt.mean(0), rtol=1e-6, atol=1e-9)
    return scores.per_prompt


_patched = {}  # logits by setting and ablation, the same for every metric; settings live as long as the session


def expected_noising(setting, metric="logit_diff", ablation="corrupted"):
    """Harm of ablating each edge alone in the clean run, [prompt, edge]."""
    edges = np.arange(setting.graph.n_edges)
    if (id(setting), ablation) not in _patched:
        _patched[id(setting), ablation] = [setting.patched(edges != edge, ablation) for edge in edges]
    before = setting.harm(metric, setting.clean.logits)
    columns = [(setting.harm(metric, logits) - before).numpy() for logits in _patched[id(setting), ablation]]
    return np.stack(columns, 1)


def expected_denoising(setting, metric="logit_diff"):
    """Harm that goes away when one edge alone carries its clean value in the corrupted run."""
    graph, p = setting.graph, setting.prompts
    before = setting.harm(metric, setting.corrupted.logits)
    columns = []
    for edge in range(graph.n_edges):
        kept = np.arange(graph.n_edges) != edge
        logits = setting.dense.forward(p.corrupted, p.mask, kept, setting.clean.outputs).logits
        columns.append((before - setting.harm(metric, logits)).numpy())
    return np.stack(columns, 1)


@pytest.mark.parametrize(
    ("kind", "kv", "padding"),
    [(kind, kv, "left") for kind, kv in models.SHAPES]
    + [
        (kind, "query_head", padding)
        for kind in ("gpt2", "mistral", "gemma2")
        for padding in ("none", "right")
    ],
)
def test_noising_every_edge_is_the_dense_patched_forward(setting_of, kind, kv, padding):
    setting = setting_of(kind, kv=kv, padding=padding)
    assert relative_error(found_edges(setting), expected_noising(setting)) <= 1e-10


@pytest.mark.parametrize("kind", models.KINDS)
def test_denoising_every_edge_is_the_dense_patched_forward(setting_of, kind):
    setting = setting_of(kind, padding="left")
    assert relative_error(found_edges(setting, direction="denoising"), expected_denoising(setting)) <= 1e-10


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean_positional"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_noising_with_every_ablation(setting_of, kind, ablation):
    setting = setting_of(kind, padding="none" if ablation == "mean_positional" else "right")
    found = found_edges(setting, ablation=ablation)
    assert relative_error(found, expected_noising(setting, ablation=ablation)) <= 1e-10


@pytest.mark.parametrize("metric", ["kl_divergence", "prob_diff", "nll", "accuracy"])
def test_noising_with_every_metric(setting_of, metric):
    setting = setting_of("gpt2", padding="right")
    assert relative_error(found_edges(setting, metric), expected_noising(setting, metric)) <= 1e-10


def test_denoising_with_a_divergence(setting_of):
    setting = setting_of("gpt2", padding="right")
    found = found_edges(setting, "kl_divergence", direction="denoising")
    assert relative_error(found, expected_denoising(setting, "kl_divergence")) <= 1e-10


@pytest.mark.parametrize("kind", models.KINDS)
def test_single_precision_is_within_1e_5(setting_of, kind):
    setting = setting_of(kind, padding="left", dtype="float32")
    assert relative_error(found_edges(setting), expected_noising(setting)) <= 1e-5


# --- nodes -----------------------------------------------------------------------------------------------


def found_nodes(setting, ablation="corrupted", **options):
    """Scores as {(node, span): (mean, n_prompts)}."""
    frame = (
        NodePatching(**options)
        .score(
            setting.model, [setting.batch], metric="logit_diff", ablation=ablation,
            statistics=statistics_of(setting, ablation),
        )
        .to_frame()
    )  # fmt: skip
    span = [None if pd.isna(s) else s for s in frame["span"]]
    rows = zip(frame["node"], span, frame["score"], frame["n_prompts"], strict=True)
    return {(node, s): (score, n) for node, s, score, n in rows}


def expected_nodes(setting, direction="noising", ablation="corrupted", column_of=None):
    """The effect of writing another value at a node's output, for all positions or those of `column_of`.

    A node is patched by patching all of its outgoing edges; where it is not patched it writes what it writes
    in the run anyway. `column_of(row, span)` is the position of a span in a prompt, or None.
    """
    graph, p = setting.graph, setting.prompts
    base, other, ids = setting.clean, setting.ablated(ablation), p.clean
    if direction == "denoising":
        base, other, ids = setting.corrupted, setting.clean.outputs, p.corrupted
    before = setting.harm("logit_diff", base.logits)
    spans = [None] if column_of is None else range(max(p.lengths))
    expected = {}
    for sender, node in enumerate(graph.senders):
        for span in spans:
            written = base.outputs.clone()
            if span is None:
                written[sender] = other[sender]
            at = (
                [column_of(row, span) for row in range(len(p.lengths))]
                if column_of
                else [None] * len(p.lengths)
            )
            rows = [row for row, column in enumerate(at) if column_of is None or column is not None]
            for row, column in enumerate(at):
                if column is not None:
                    written[sender, row, column] = other[sender, row, column]
            logits = setting.dense.forward(ids, p.mask, graph.edge_senders != sender, written).logits
            change = setting.harm("logit_diff", logits) - before
            sign = -1 if direction == "denoising" else 1
            expected[node.name, span] = (sign * float(change[rows].mean()), len(rows))
    return expected


def assert_nodes_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [n for _, n in found.values()] == [expected[key][1] for key in found]
    scores = ([table[key][0] for key in found] for table in (found, expected))
    assert relative_error(*scores) <= 1e-10


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize(("kind", "kv"), models.SHAPES)
def test_a_patched_node_is_a_dense_forward_with_all_its_edges_patched(setting_of, kind, kv, direction):
    setting = setting_of(kind, kv=kv, padding="left")
    assert_nodes_equal(found_nodes(setting, direction=direction), expected_nodes(setting, direction))


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean_positional"])
def test_nodes_with_every_ablation(setting_of, ablation):
    setting = setting_of("gpt2", padding="none" if ablation == "mean_positional" else "right")
    assert_nodes_equal(found_nodes(setting, ablation), expected_nodes(setting, ablation=ablation))


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("count", ["from_start", "from_end"])
def test_nodes_position_by_position(setting_of, count, padding, direction):
    setting = setting_of("llama", padding=padding)
    p = setting.prompts

    def column_of(row, span):
        if span >= p.lengths[row]:
            return None
        first = p.answer_pos[row] - p.lengths[row] + 1
        return first + span if count == "from_start" else p.answer_pos[row] - span

    expected = expected_nodes(setting, direction, column_of=column_of)
    expected = {(n, str(s if count == "from_start" else -1 - s)): v for (n, s), v in expected.items()}
    assert_nodes_equal(found_nodes(setting, direction=direction, positions=count), expected)


def test_the_node_that_writes_last_is_patched_by_its_only_edge(setting_of):
    setting = setting_of("gpt2", padding="left")
    edge = setting.graph.edge_id("m1->logits")
    found = found_nodes(setting)["m1", None][0]
    assert found == pytest.approx(found_edges(setting)[:, edge].mean(), rel=1e-10)
