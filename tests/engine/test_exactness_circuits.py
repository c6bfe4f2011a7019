"""A circuit's metric values, from the engine and from a full dense forward with an input per receiver."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.core.errors import PromptError
from pipeline.evaluation import circuit_values
from tests.exactness import CASES, relative_error
from tests.oracles import models
from tests.oracles.metrics import HIGHER_IS_BETTER, at_answers


def masks_of(graph, n=6):
    """Random circuits from nearly empty to nearly full."""
    rng = np.random.default_rng(0)
    return rng.random((n, graph.n_edges)) < np.linspace(0.1, 0.9, n)[:, None]


def expected_values(setting, masks, metric, ablation="corrupted"):
    full = np.ones(setting.graph.n_edges, dtype=bool)
    rows = [setting.values(metric, setting.patched(kept, ablation)) for kept in (full, ~full, *masks)]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize(("kind", "kv", "padding"), CASES)
def test_circuits_have_the_values_of_a_dense_patched_forward(setting_of, kind, kv, padding):
    setting = setting_of(kind, kv=kv, padding=padding)
    masks = masks_of(setting.graph)
    found = circuit_values(setting.model, [setting.batch], masks, "logit_diff", "corrupted")
    assert relative_error(found, expected_values(setting, masks, "logit_diff")) <= 1e-10


@pytest.mark.parametrize("metric", HIGHER_IS_BETTER)
def test_every_metric_is_the_one_computed_by_hand(setting_of, metric):
    setting = setting_of("gpt2", padding="right")
    masks = masks_of(setting.graph, 3)
    found = circuit_values(setting.model, [setting.batch], masks, metric, "corrupted")
    assert relative_error(found, expected_values(setting, masks, metric)) <= 1e-10


@pytest.mark.parametrize("metric", ["logit_diff", "prob_diff"])
def test_a_prompt_without_the_answers_that_a_metric_compares_is_refused(setting_of, metric):
    setting = setting_of("gpt2", padding="right")
    wrong = setting.batch.wrong_answers.clone()
    wrong[1] = -1
    batch = replace(setting.batch, wrong_answers=wrong)
    with pytest.raises(PromptError, match=f"prompt 1: has no wrong answers and {metric} needs them"):
        circuit_values(setting.model, [batch], masks_of(setting.graph, 1), metric, "corrupted")


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean_positional"])
@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_every_ablation_is_the_one_of_the_definitions(setting_of, kind, ablation):
    setting = setting_of(kind, padding="none" if ablation == "mean_positional" else "left")
    masks = masks_of(setting.graph, 3)
    found = circuit_values(
        setting.model, [setting.batch], masks, "logit_diff", ablation, statistics_of(setting, ablation)
    )
    assert relative_error(found, expected_values(setting, masks, "logit_diff", ablation)) <= 1e-10


def statistics_of(setting, ablation):
    from pipeline.ablations import collect_statistics, needs_statistics

    return collect_statistics(setting.model, [setting.batch]) if needs_statistics(ablation) else None


@pytest.mark.parametrize("kind", models.KINDS)
def test_single_precision_is_within_1e_5(setting_of, kind):
    setting = setting_of(kind, padding="left", dtype="float32")
    masks = masks_of(setting.graph, 3)
    found = circuit_values(setting.model, [setting.batch], masks, "logit_diff", "corrupted")
    assert relative_error(found, expected_values(setting, masks, "logit_diff")) <= 1e-5


def test_the_full_circuit_is_the_clean_run_and_the_empty_one_the_corrupted_run(setting_of):
    setting = setting_of("llama", padding="right")
    none = np.zeros((0, setting.graph.n_edges), dtype=bool)
    full, empty = circuit_values(setting.model, [setting.batch], none, "nll", "corrupted")
    assert relative_error(full, setting.values("nll", setting.clean.logits)) <= 1e-10
    assert relative_error(empty, setting.values("nll", setting.corrupted.logits)) <= 1e-10


def test_accuracy_of_a_prompt_does_not_depend_on_what_else_is_in_the_batch(setting_of):
    setting = setting_of("gpt2", padding="none")
    model, p = setting.model, setting.prompts
    best = [int(setting.clean.logits[row, -1].argmax()) for row in range(3)]
    worst = [int(setting.clean.logits[row, -1].argmin()) for row in range(3)]
    second = [int(setting.clean.logits[row, -1].argsort()[-2]) for row in range(3)]
    right = torch.tensor([[best[0]], [second[1]], [second[2]]])
    wrong = torch.tensor([[-1], [-1], [worst[2]]])  # without wrong answers the answer must be the argmax
    none = np.zeros((0, setting.graph.n_edges), dtype=bool)
    batch = model.batch_from_ids(p.clean, p.corrupted, right, wrong)
    assert circuit_values(model, [batch], none, "accuracy", "corrupted")[0].tolist() == [1.0, 0.0, 1.0]


def test_an_answer_that_is_the_argmax_equals_the_highest_logit_to_the_last_bit(setting_of):
    setting = setting_of("llama", padding="right", dtype="float32", lengths=[6, 3, 5, 4, 2, 6, 5, 3])
    model, p = setting.model, setting.prompts
    rows = at_answers(setting.clean.logits, p.answer_pos)
    none = np.zeros((0, setting.graph.n_edges), dtype=bool)
    batch = model.batch_from_ids(p.clean, p.corrupted, rows.argmax(-1), attention_mask=p.mask)
    assert circuit_values(model, [batch], none, "accuracy", "corrupted")[0].all()
