"""Answers of several tokens: every method and the circuits against one plain forward per answer, token after token."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from pipeline.core.prompts import PromptPair, Sequences, TokenPair
from pipeline.evaluation.faithfulness import circuit_values
from pipeline.methods import Acdc, Eap, EapIg, EdgePatching, NodePatching
from tests.exactness import relative_error
from tests.oracles.acdc import naive_acdc
from tests.oracles.models import VOCABULARY
from tests.slowly import slow

# Answers by prompt, right and wrong: branches that share a token, one token beside several, a chain alone.
ANSWERS = (
    (((3, 7), (4,)), ((3, 8, 2), (5, 6))),
    (((9, 1, 2),), ((11, 1, 2),)),
    (((6,),), ((10,),)),
)
# One way on from every prompt: what a model with a window reads in one run too.
CHAINS = ((((3, 7, 5),), ((4,),)), (((9,),), ((5,), (6,))), (((2, 2),), ((7,), (2, 3))))
METRICS = ("logit_diff", "prob_diff", "nll", "prob", "kl_divergence")


@dataclass(frozen=True)
class Case:
    setting: object
    pairs: list
    batch: object
    runs: dict = field(default_factory=dict)

    @property
    def model(self):
        return self.setting.model


def case_of(setting, padding="left", answers=None, lengths=(6, 3, 5)):
    windowed = getattr(setting.stock.config, "sliding_window", None) is not None
    answers = answers or (CHAINS if windowed else ANSWERS)
    generator = torch.Generator().manual_seed(3)
    pairs = []
    for i, (length, (right, wrong)) in enumerate(zip(lengths, answers, strict=True)):
        clean, corrupted = torch.randint(1, VOCABULARY, (2, length), generator=generator).tolist()
        several = Sequences(right, wrong) if any(len(one) > 1 for one in (*right, *wrong)) else None
        firsts = (tuple(dict.fromkeys(one[0] for one in given)) for given in (right, wrong))
        pair = PromptPair("", "", ())
        pairs.append(TokenPair(i, tuple(clean), tuple(corrupted), *firsts, pair, sequences=several))
    return Case(setting, pairs, setting.model.batch(pairs, padding=padding))


def each_answer(case, prompt):
    """(clean ids, corrupted ids, where the answer is first read, answer, is right) of each answer of a prompt."""
    pair = case.pairs[prompt]
    right = pair.sequences.answers if pair.sequences else [(token,) for token in pair.answers]
    wrong = pair.sequences.wrong_answers if pair.sequences else [(token,) for token in pair.wrong_answers]
    for answer in (*right, *wrong):
        rows = (torch.tensor([[*ids, *answer[:-1]]]) for ids in (pair.clean, pair.corrupted))
        yield *rows, len(pair.clean) - 1, answer, answer in right


def value(metric, runs):
    """The metric of one prompt by hand; `runs` are (log probs [T, V], the clean run's, first read, answer, right)."""
    scores = {True: [], False: []}
    divergences = {}
    for here, clean, first, answer, right in runs:
        scores[right].append(sum(here[first + i, token] for i, token in enumerate(answer)))
        if right and clean is not None:
            for i in range(len(answer)):
                p = clean[first + i].exp()
                divergences[answer[:i]] = (p * (clean[first + i] - here[first + i])).sum()
    right, wrong = (torch.stack(scores[key]) if scores[key] else None for key in (True, False))
    if metric == "logit_diff":
        return right.mean() - wrong.mean()
    if metric == "prob_diff":
        return right.exp().sum() - wrong.exp().sum()
    if metric == "nll":
        return -right.exp().sum().log()
    return right.exp().sum() if metric == "prob" else sum(divergences.values())


def by_hand(case, metric, run, prompts=None):
    """The metric of every prompt, where `run(clean, corrupted)` gives logits [1, T, V] of one answer's text."""
    found = []
    for prompt in range(len(case.pairs)) if prompts is None else prompts:
        runs = []
        for clean, corrupted, first, answer, right in each_answer(case, prompt):
            reference = plain(case, clean).logits[0].log_softmax(-1)
            runs.append((run(clean, corrupted)[0].log_softmax(-1), reference, first, answer, right))
        found.append(value(metric, runs))
    return torch.stack(found)


def plain(case, ids):
    """One plain forward of a text, which is run once for a case."""
    key = tuple(ids[0].tolist())
    if key not in case.runs:
        case.runs[key] = case.setting.dense.forward(ids)
    return case.runs[key]


def patched(case, kept):
    """Runs an answer's clean text with only the kept edges; the others carry what the corrupted text gives."""

    def run(clean, corrupted):
        return case.setting.dense.forward(clean, None, kept, plain(case, corrupted).outputs).logits

    return run


def harm(metric, values):
    return values if metric in ("nll", "kl_divergence") else -values


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "opt", "gemma2"])
def test_the_metric_is_that_of_a_plain_forward_for_every_answer(setting_of, kind, padding, metric):
    case = case_of(setting_of(kind, padding="left"), padding)
    hidden = case.model.answer_hidden(case.batch, "corrupted")
    from pipeline.metrics import get_metric

    clean = case.model.answer_hidden(case.batch, "clean")
    found = case.model.objective(get_metric(metric), case.batch, clean)(hidden)

    def stock(clean, corrupted):
        with torch.no_grad():
            return case.setting.stock(corrupted).logits

    assert relative_error(found, by_hand(case, metric, stock)) <= 1e-10


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "cohere_qk", "gpt_neox"])
def test_patched_edges_are_a_plain_forward_for_every_answer(setting_of, kind):
    case = case_of(setting_of(kind, padding="left"))
    graph, some = case.model.graph, slice(None, None, 11)
    for metric in ("logit_diff", "kl_divergence"):
        found = EdgePatching().score(case.model, [case.batch], metric=metric, per_prompt=True)
        before = harm(metric, by_hand(case, metric, patched(case, None)))
        for edge in range(graph.n_edges)[some]:
            kept = np.arange(graph.n_edges) != edge
            expected = harm(metric, by_hand(case, metric, patched(case, kept))) - before
            np.testing.assert_allclose(found.per_prompt[:, edge], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "olmo2"])
def test_attribution_is_the_gradient_of_a_plain_forward_for_every_answer(setting_of, kind):
    case = case_of(setting_of(kind, padding="left"))
    dense = case.setting.dense

    def by_gradient(prompt, alphas):
        """Scores of one prompt [edge]: the differences of each answer's text times the gradient of the metric."""
        total = 0
        for alpha in alphas:
            texts = list(each_answer(case, prompt))
            added, runs = [], []
            for clean, corrupted, first, answer, right in texts:
                shape = (case.model.graph.n_receivers, *clean.shape, dense.d_model)
                added.append(torch.zeros(shape, dtype=torch.float64, requires_grad=True))
                start, end = dense.embed(corrupted, None), dense.embed(clean, None)
                there = dense.forward(clean, None, embeddings=start + alpha * (end - start), added=added[-1])
                runs.append((there.logits[0].log_softmax(-1), None, first, answer, right))
            gradients = torch.autograd.grad(value("logit_diff", runs), added)
            for (clean, corrupted, *_), gradient in zip(texts, gradients, strict=True):
                delta = dense.changes(dense.forward(clean).outputs, dense.forward(corrupted).outputs)
                table = torch.einsum("sbtd,rbtd->rs", delta, gradient).numpy()
                total = total - table[case.model.graph.edge_receivers, case.model.graph.edge_senders]
        return total / len(alphas)

    for method, alphas in ((Eap(), [1.0]), (EapIg(steps=3), [0, 1 / 3, 2 / 3])):
        found = method.score(case.model, [case.batch], per_prompt=True)
        expected = np.stack([by_gradient(prompt, alphas) for prompt in range(len(case.pairs))])
        assert relative_error(found.per_prompt, expected) <= 1e-9


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_patched_nodes_are_all_of_their_edges_in_a_plain_forward_for_every_answer(setting_of, direction):
    case = case_of(setting_of("llama", padding="left"))
    graph, dense = case.model.graph, case.setting.dense

    def run(edges):
        def patch(clean, corrupted):
            base, other = (clean, corrupted) if direction == "noising" else (corrupted, clean)
            return dense.forward(base, None, edges, dense.forward(other).outputs).logits

        return patch

    sign = 1 if direction == "noising" else -1
    found = NodePatching(direction=direction).score(case.model, [case.batch])
    before = harm("logit_diff", by_hand(case, "logit_diff", run(np.ones(graph.n_edges, dtype=bool))))
    for sender in range(graph.n_senders):
        kept = graph.edge_senders != sender
        expected = sign * (harm("logit_diff", by_hand(case, "logit_diff", run(kept))) - before)
        assert abs(found.score[sender] - float(expected.mean())) <= 1e-9


def test_positions_of_nodes_are_those_of_the_text_and_add_up_in_a_model_without_attention_between_them(
    setting_of,
):
    case = case_of(setting_of("gpt2", padding="left"), answers=CHAINS)
    alone = [case.model.batch([pair]) for pair in case.pairs]
    for positions in ("from_start", "from_end"):
        together = NodePatching(positions=positions).score(case.model, [case.batch], metric="nll")
        apart = NodePatching(positions=positions).score(case.model, alone, metric="nll")
        assert together.span == apart.span
        np.testing.assert_allclose(together.score, apart.score, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "cohere_qk"])
def test_circuits_are_a_plain_forward_for_every_answer(setting_of, kind):
    case = case_of(setting_of(kind, padding="left"))
    graph, random = case.model.graph, np.random.default_rng(0)
    masks = np.stack([random.random(graph.n_edges) < share for share in (0.3, 0.7, 0.95)])
    for metric in ("logit_diff", "prob"):
        found = circuit_values(case.model, [case.batch], masks, metric)
        every = [np.ones(graph.n_edges, dtype=bool), np.zeros(graph.n_edges, dtype=bool), *masks]
        for row, mask in zip(found, every, strict=True):
            np.testing.assert_allclose(row, by_hand(case, metric, patched(case, mask)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", ["kl_divergence", *slow("nll")])
@pytest.mark.parametrize("kind", ["gpt2", "llama", *slow("gemma2")])
def test_acdc_keeps_what_a_plain_forward_for_every_answer_and_edge_keeps(setting_of, kind, metric):
    case = case_of(setting_of(kind, heads=2, padding="left"))

    def mean_harm(kept):
        return float(harm(metric, by_hand(case, metric, patched(case, kept))).mean())

    # a divergence is compared with its sign, and every edge of these models changes it by .01
    rule, threshold = ("signed", 0.1) if metric == "kl_divergence" else ("absolute", 0.01)
    kept, delta = naive_acdc(mean_harm, case.model.graph, threshold, rule)
    found = Acdc(threshold=threshold, rule=rule).score(case.model, [case.batch], metric=metric)
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_array_equal(found.kept, kept)
    measured = found.n_prompts > 0
    np.testing.assert_allclose(found.score[measured], delta[measured], rtol=0, atol=1e-9)
