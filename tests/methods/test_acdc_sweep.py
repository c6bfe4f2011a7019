"""Several thresholds in one search, other orders, several batches, little memory, many holders of prompts: always
the circuit that one forward per edge finds for one threshold on one batch, in float64."""

import numpy as np
import pytest

from pipeline.methods import Acdc
from pipeline.methods.collective import LocalWorkers
from pipeline.methods.visits import Visits
from pipeline.methods.work import Work
from tests.exactness import assert_same_circuit
from tests.slowly import slow

# Heads of their own, blocks whose halves read the same, heads that share a norm of what they write or of their
# queries, grouped keys and values, experts.
SHAPES = {
    "gpt2": ("gpt2", {"layers": 3, "heads": 2, "width": 8, "padding": "right"}),
    "gpt_neox": ("gpt_neox", {"heads": 2, "padding": "left"}),
    "gemma2-kv": ("gemma2", {"kv": "kv_head", "padding": "left"}),
    "olmo2": ("olmo2", {"heads": 2, "kv_heads": 1, "padding": "right"}),
    "cohere_qk-kv": ("cohere_qk", {"heads": 2, "kv_heads": 1, "kv": "kv_head", "padding": "left"}),
    "mixtral": ("mixtral", {"heads": 2, "kv_heads": 1, "padding": "left"}),
}
EVERY = ["gpt2", "cohere_qk-kv", *slow("gpt_neox", "gemma2-kv", "olmo2", "mixtral")]
THRESHOLDS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SOME = THRESHOLDS[1::2]
EIGHT = {"lengths": (6, 3, 5, 6, 4, 2, 6, 5)}
ENDS = (1, 5, 8)  # where three batches of eight prompts end


@pytest.fixture
def of_shape(setting_of):
    def make(shape, **more):
        kind, options = SHAPES[shape]
        return setting_of(kind, **options | more)

    return make


def cut(batch):
    """Eight prompts in three batches."""
    return [batch._rows(slice(start, end)) for start, end in zip((0, *ENDS), ENDS, strict=False)]


def swept(setting, thresholds=THRESHOLDS, batches=None, **options):
    return Acdc(**options).sweep(setting.model, batches or [setting.batch], thresholds)


def searched(model, workers):
    """The results of a search over any workers."""
    method = Acdc().resolved("kl_divergence", "corrupted")
    methods = {str(t): method.model_copy(update={"threshold": t}) for t in SOME}
    drive = method.drive(methods, model.graph, workers, str(model.hf.dtype))
    for _ in drive.steps({}):
        pass
    return {float(t): scores for t, scores in drive.results().items()}


def parts_of(setting, batches, shares, memory=None):
    method = Acdc().resolved("kl_divergence", "corrupted")
    works = [
        Work(setting.model, [batches[i] for i in share], method.metric, method.ablation) for share in shares
    ]
    return [method.part(work, memory) for work in works]


class Several:
    """A workers of crews: each holds prompts of its own, and answers for them alone."""

    def __init__(self, parts):
        self.crews = [LocalWorkers(part) for part in parts]
        ids = [i for part in parts for recorded in part.batches for i in sorted(recorded.batch.prompt_ids)]
        assert len(set(ids)) == len(ids)
        held = [sorted(i for recorded in part.batches for i in recorded.batch.prompt_ids) for part in parts]
        self.order = np.argsort(np.concatenate(held))
        self.n_prompts, self.about = len(ids), [part.about for part in parts]

    def ask(self, questions):
        answers = zip(*(workers.ask(questions) for workers in self.crews), strict=True)
        return [np.concatenate(rows, axis=1)[:, self.order] for rows in answers]


def assert_equal(found, expected):
    """Every number of every threshold, to the last bit."""
    assert set(found) == set(expected)
    for threshold, scores in found.items():
        other = expected[threshold]
        for name in ("kept", "score", "std", "n_prompts"):
            np.testing.assert_array_equal(getattr(scores, name), getattr(other, name), name)
        assert scores.facts == other.facts


def assert_close(found, expected):
    """The same edges, and the same deltas but for rounding."""
    assert set(found) == set(expected)
    for threshold, scores in found.items():
        np.testing.assert_array_equal(scores.kept, expected[threshold].kept)
        np.testing.assert_array_equal(scores.n_prompts, expected[threshold].n_prompts)
        np.testing.assert_allclose(scores.score, expected[threshold].score, rtol=0, atol=1e-9)
        np.testing.assert_allclose(scores.std, expected[threshold].std, rtol=0, atol=1e-9)


# --- resamples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, *slow(2)])
@pytest.mark.parametrize("shape", ["gpt_neox", *slow("gemma2-kv")])
def test_a_resample_is_naive_acdc_on_prompts_drawn_with_replacement(of_shape, naive, shape, number):
    setting = of_shape(shape, **EIGHT)
    found = swept(setting, SOME, cut(setting.batch), resample=number)
    drawn = np.random.default_rng([8, number]).integers(8, size=8)
    assert len(set(drawn.tolist())) < 8
    for threshold in SOME:
        expected = naive(setting, "kl_divergence", threshold, drawn=drawn)
        assert_same_circuit(found[threshold], expected, setting.graph)


def test_resamples_follow_each_threshold_and_leave_its_id_as_it_is():
    method = Acdc(thresholds=(0.1, 0.3), resamples=2)
    assert [one.id for one in method.expanded()] == [
        *("acdc-0.1", "acdc-0.1-resample-1", "acdc-0.1-resample-2"),
        *("acdc-0.3", "acdc-0.3-resample-1", "acdc-0.3-resample-2"),
    ]


# --- thresholds and orders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", EVERY)
def test_a_sweep_is_naive_acdc_at_each_threshold(of_shape, naive, shape):
    setting = of_shape(shape)
    found = swept(setting)
    assert list(found) == list(THRESHOLDS)
    for threshold in THRESHOLDS:
        expected = naive(setting, "kl_divergence", threshold)
        assert_same_circuit(found[threshold], expected, setting.graph)
    circuits = {scores.kept.tobytes() for scores in found.values()}
    assert len(circuits) == len(THRESHOLDS), "every threshold has a circuit of its own"


@pytest.mark.parametrize("shape", EVERY)
def test_a_sweep_is_one_run_per_threshold_for_less(of_shape, shape):
    setting = of_shape(shape)
    found = swept(setting)
    alone = {t: Acdc(threshold=t).score(setting.model, [setting.batch]) for t in THRESHOLDS}
    assert_close(found, alone)
    for threshold in THRESHOLDS:
        for fact in ("tests", "dead_edges", "kept_edges", "guard_band_hits"):
            assert found[threshold].facts[fact] == alone[threshold].facts[fact]
    shared = found[THRESHOLDS[0]].facts["evaluations"]
    assert shared < sum(scores.facts["evaluations"] for scores in alone.values())


@pytest.mark.parametrize("rule", ["absolute", "signed"])
@pytest.mark.parametrize("shape", ["gpt_neox", *slow("gemma2-kv")])
def test_a_sweep_over_a_metric_with_a_direction_is_naive_acdc(of_shape, naive, shape, rule):
    setting = of_shape(shape)
    found = swept(setting, metric="logit_diff", rule=rule)
    for threshold in THRESHOLDS:
        expected = naive(setting, "logit_diff", threshold, rule)
        assert_same_circuit(found[threshold], expected, setting.graph)


@pytest.mark.parametrize(("order", "seed"), [("early_first", 0), ("random", 7)])
@pytest.mark.parametrize("shape", ["gpt2", *slow("gemma2-kv", "cohere_qk-kv")])
def test_another_order_is_naive_acdc_in_that_order(of_shape, naive, shape, order, seed):
    setting = of_shape(shape)
    visits = Visits(order, seed)
    listed = [(r, visits.senders(setting.graph, r)) for r in visits.receivers(setting.graph)]
    options = {"order": order, "order_seed": seed}
    found = swept(setting, SOME, **options)
    for threshold, scores in found.items():
        expected = naive(setting, "kl_divergence", threshold, order=listed)
        assert_same_circuit(scores, expected, setting.graph)


def test_orders_find_different_circuits_and_a_seed_the_same_again(of_shape):
    setting = of_shape("gpt2")
    options = [{"order": "late_first"}, {"order": "early_first"}]
    options += [{"order": "random", "order_seed": seed} for seed in (0, 1)]
    found = [swept(setting, [3e-3], **each) for each in options]
    assert len({each[3e-3].kept.tobytes() for each in found}) == len(options)
    assert_equal(swept(setting, [3e-3], **options[-1]), found[-1])


# --- batches, memory, holders -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", EVERY)
def test_batches_change_no_decision(of_shape, shape):
    setting = of_shape(shape, **EIGHT)
    assert_close(swept(setting, SOME, cut(setting.batch)), swept(setting, SOME))


@pytest.mark.parametrize("shape", ["gemma2-kv", *slow("mixtral")])
def test_several_batches_are_naive_acdc_over_all_their_prompts(of_shape, naive, shape):
    setting = of_shape(shape, **EIGHT)
    batches = cut(setting.batch)
    found = Acdc(threshold=1e-2).score(setting.model, batches[::-1])
    assert_same_circuit(found, naive(setting, "kl_divergence", 1e-2), setting.graph)
    assert (found.n_prompts[found.n_prompts > 0] == 8).all()


@pytest.mark.parametrize(
    ("shape", "held"),
    [("gpt2", 2), *slow(("gemma2-kv", 0), *((shape, 2) for shape in SHAPES if shape != "gpt2"))],
)
def test_runs_that_are_recorded_again_for_every_question_give_the_same_bits(of_shape, shape, held):
    setting = of_shape(shape, **EIGHT)
    batches = cut(setting.batch)
    [unlimited] = parts_of(setting, batches, [range(3)])
    assert unlimited.held == 3
    expected = searched(setting.model, LocalWorkers(unlimited))
    memory = sum(recorded.n_bytes() for recorded in unlimited.batches[:held])
    [part] = parts_of(setting, batches, [range(3)], memory)
    assert part.held == held
    before = setting.model.counters.forward_passes
    assert_equal(searched(setting.model, LocalWorkers(part)), expected)
    assert setting.model.counters.forward_passes > before, "recorded again"


@pytest.mark.parametrize("shape", EVERY)
def test_prompts_in_uneven_parts_give_the_same_bits(of_shape, shape):
    setting = of_shape(shape, **EIGHT)
    batches = cut(setting.batch)
    [together] = parts_of(setting, batches, [range(3)])
    expected = searched(setting.model, LocalWorkers(together))
    for shares in ([(0, 1), (2,)], [(2,), (0,), (1,)]):
        workers = Several(parts_of(setting, batches, shares))
        assert_equal(searched(setting.model, workers), expected)
