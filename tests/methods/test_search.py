"""The search finds what one test per edge finds, whatever it guesses, shares, skips or takes over.

Against a metric that is known for every set of edges (`tests.oracles.workers`), without a model.
"""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import ScoreError
from pipeline.core.graph import Graph
from pipeline.methods.branches import Rule
from pipeline.methods.search import Search
from pipeline.methods.visits import Visits
from tests.core.strategies import graphs
from tests.oracles.acdc import naive_acdc, visits
from tests.oracles.reach import alive_receivers
from tests.oracles.workers import UNIT, OracleWorkers, World

few = settings(max_examples=10)
thresholds = st.one_of(
    st.integers(-8, 24).map(lambda n: n * UNIT),  # many deltas are exactly one of these
    st.sampled_from([-np.inf, np.inf, 0.3 * UNIT]),
)
rules = st.builds(Rule, sign=st.sampled_from([1, -1]), absolute=st.booleans(), guard=st.just(0.0))
worlds = st.tuples(
    graphs(),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),  # which layers are coupled
    st.integers(0, 2**32),
)


@functools.lru_cache(maxsize=4)
def world_of(key):
    graph, coupled, seed = key
    assume(graph.n_edges <= 200)
    return World(graph, coupled[: graph.n_layers], seed)


def naive(world, rule, threshold, order=None):
    """Kept edges and deltas of the algorithm as it is written; NaN, and gone, where a node is not read."""

    def harm(kept):
        return rule.sign * float(world.values(kept).mean())

    name = "absolute" if rule.absolute else "signed"
    kept, delta = naive_acdc(harm, world.graph, threshold, name, order)
    alive = alive_receivers(world.graph, world.coupled, kept)[world.graph.edge_receivers]
    assert (delta[~alive] == 0).all()
    return kept & alive, np.where(alive, delta, np.nan)


def searched(world, rule, ts, **options):
    """The finished search, its steps and the workers asked."""
    workers = OracleWorkers(world, eager=options.pop("eager", False), noise=options.pop("noise", 0.0))
    past = options.pop("past", None)
    search = Search(world.graph, workers, ts, rule, **options)
    return search, list(search.run(past)), workers


def by_receiver(steps):
    return {step.receiver: step for step, _ in steps}


def assert_equal(found, expected):
    """Two results of one threshold, to the last bit."""
    for entry in dataclasses.fields(found):
        np.testing.assert_array_equal(getattr(found, entry.name), getattr(expected, entry.name), entry.name)


# --- the decisions ------------------------------------------------------------------------------------------


@few
@given(worlds, rules, thresholds, st.integers(1, 40), st.booleans())
def test_one_threshold_is_decided_as_by_one_test_per_edge(key, rule, threshold, width, eager):
    world = world_of(key)
    search, _, _ = searched(world, rule, [threshold], width=width, eager=eager)
    kept, delta = naive(world, rule, threshold)
    found = search.found[threshold]
    np.testing.assert_array_equal(found.kept, kept)
    np.testing.assert_array_equal(found.delta, delta)
    np.testing.assert_array_equal(found.final, world.values(kept))
    assert (found.tests, found.dead) == (np.isfinite(delta).sum(), np.isnan(delta).sum())


@few
@given(
    worlds,
    rules,
    st.lists(thresholds, min_size=2, max_size=6),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from(["late_first", "early_first"]),
)
def test_a_sweep_decides_every_threshold_as_if_it_were_alone(key, rule, ts, width, eager, order):
    world = world_of(key)
    search, _, workers = searched(world, rule, ts, width=width, eager=eager, visits=Visits(order))
    assert set(search.found) == set(ts)
    assert workers.most_states <= len(set(ts))
    for threshold in set(ts):
        kept, delta = naive(world, rule, threshold, visits(world.graph, order))
        np.testing.assert_array_equal(search.found[threshold].kept, kept)
        np.testing.assert_array_equal(search.found[threshold].delta, delta)
        alone, _, _ = searched(world, rule, [threshold], visits=Visits(order))
        assert_equal(search.found[threshold], alone.found[threshold])


@few
@given(worlds, rules, thresholds, st.integers(0, 99), st.integers(1, 40))
def test_a_random_order_is_that_of_its_visits(key, rule, threshold, seed, width):
    world = world_of(key)
    order = Visits("random", seed)
    listed = [(r, order.senders(world.graph, r)) for r in order.receivers(world.graph)]
    search, _, _ = searched(world, rule, [threshold], visits=order, width=width)
    kept, delta = naive(world, rule, threshold, listed)
    np.testing.assert_array_equal(search.found[threshold].kept, kept)
    np.testing.assert_array_equal(search.found[threshold].delta, delta)


@few
@given(worlds, rules, st.lists(thresholds, min_size=1, max_size=4, unique=True))
def test_a_spread_is_that_over_prompts_of_what_the_removal_did_after_those_before(key, rule, ts):
    world = world_of(key)
    search, _, _ = searched(world, rule, ts)
    for found in search.found.values():
        kept = np.ones(world.graph.n_edges, dtype=bool)
        for receiver, senders in visits(world.graph):
            for edge in int(world.graph.first_edge[receiver]) + np.asarray(senders):
                before = world.values(kept)
                kept[edge] = False
                step = world.values(kept) - before
                kept[edge] = found.kept[edge]
                if np.isfinite(found.delta[edge]):
                    assert found.std[edge] == pytest.approx(step.std(), rel=1e-12)
                else:
                    assert np.isnan(found.std[edge])
                    assert not step.any()


# --- the order ----------------------------------------------------------------------------------------------


@given(graphs())
def test_the_orders_from_the_first_and_from_the_last_are_those_of_the_oracle(graph):
    for order in ("late_first", "early_first"):
        found = Visits(order)
        assert [(r, found.senders(graph, r)) for r in found.receivers(graph)] == visits(graph, order)


@given(graphs(), st.integers(0, 99))
def test_a_random_order_shuffles_heads_within_a_port_and_the_senders_of_each_receiver(graph, seed):
    found = Visits("random", seed)
    receivers = list(found.receivers(graph))
    kinds = [(graph.receivers[r].layer, graph.receivers[r].port) for r in receivers]
    assert kinds == [(graph.receivers[r].layer, graph.receivers[r].port) for r, _ in visits(graph)]
    assert sorted(receivers) == list(range(graph.n_receivers))
    for receiver in receivers:
        assert sorted(found.senders(graph, receiver)) == list(range(graph.senders_read[receiver]))
    again, other = Visits("random", seed), Visits("random", seed + 1)
    assert receivers == list(again.receivers(graph))
    listed = [
        [visits.senders(graph, r) for r in range(graph.n_receivers)] for visits in (found, again, other)
    ]
    assert listed[0] == listed[1]
    assert listed[0] != listed[2] or graph.n_senders < 8


# --- what is asked ------------------------------------------------------------------------------------------


@few
@given(worlds, rules, st.lists(thresholds, min_size=1, max_size=5, unique=True), st.integers(1, 40))
def test_a_chain_is_no_longer_than_allowed_and_what_is_asked_is_counted(key, rule, ts, width):
    search, steps, workers = searched(world_of(key), rule, ts, width=width, eager=True)
    assert max(len(question.candidates) for question in workers.measures) <= width
    assert search.evaluations == sum(question.n_variants for question in workers.measures)
    assert search.evaluations == sum(step.evaluations for step, _ in steps)
    assert search.rounds == sum(step.rounds for step, _ in steps) <= len(workers.measures)


def test_a_width_of_one_measures_every_edge_into_a_live_node_once():
    world = World(Graph(2, 4, 2), (False, True), seed=3)
    search, _, workers = searched(world, Rule(1, absolute=False, guard=0.0), [6 * UNIT], width=1)
    found = search.found[6 * UNIT]
    assert 0 < found.kept.sum() < found.tests < world.graph.n_edges
    assert search.evaluations == search.rounds == len(workers.measures) == found.tests


def test_thresholds_that_decide_alike_cost_as_much_as_one():
    world = World(Graph(2, 3, 3), (False, False), seed=5)
    rule = Rule(1, absolute=False, guard=0.0)
    one, _, _ = searched(world, rule, [4.375 * UNIT])
    many, _, workers = searched(world, rule, [(4.25 + n / 40) * UNIT for n in range(1, 10)])
    assert many.evaluations == one.evaluations
    assert workers.most_states == 1


# --- going on after an interruption -------------------------------------------------------------------------


@few
@given(
    worlds, rules, st.lists(thresholds, min_size=1, max_size=5, unique=True), st.floats(0, 1), st.booleans()
)
def test_records_of_an_earlier_run_are_taken_over_and_the_rest_is_found_as_before(
    key, rule, ts, share, eager
):
    world = world_of(key)
    whole, steps, _ = searched(world, rule, ts, eager=eager)
    n = round(share * len(steps))
    past = by_receiver(steps[:n])
    search, again, workers = searched(world, rule, ts, eager=eager, past=past)
    assert [step for step, _ in again] == [step for step, _ in steps]
    assert [new for _, new in again] == [False] * n + [True] * (len(steps) - n)
    assert not {question.receiver for question in workers.measures} & set(past)
    for threshold in ts:
        assert_equal(search.found[threshold], whole.found[threshold])
    assert (search.evaluations, search.rounds) == (whole.evaluations, whole.rounds)


@few
@given(worlds, rules, st.lists(thresholds, min_size=1, max_size=5, unique=True), st.data())
def test_after_a_missing_record_everything_is_found_again(key, rule, ts, data):
    world = world_of(key)
    whole, steps, _ = searched(world, rule, ts)
    missing = data.draw(st.integers(0, len(steps) - 1))
    past = by_receiver(steps)
    del past[steps[missing][0].receiver]
    search, again, workers = searched(world, rule, ts, past=past)
    assert [step for step, _ in again] == [step for step, _ in steps]
    assert [new for _, new in again] == [False] * missing + [True] * (len(steps) - missing)
    asked = {question.receiver for question in workers.measures}
    assert asked == {step.receiver for step, _ in steps[missing:]}
    for threshold in ts:
        assert_equal(search.found[threshold], whole.found[threshold])
    assert len(past) == len(steps) - 1


# --- rounding -----------------------------------------------------------------------------------------------


@few
@given(worlds, rules, st.lists(thresholds, min_size=1, max_size=5, unique=True), st.integers(1, 40))
def test_a_delta_at_the_threshold_is_decided_by_single_evaluations(key, rule, ts, width):
    world = world_of(key)
    guarded = dataclasses.replace(rule, guard=UNIT / 100)
    search, _, workers = searched(world, guarded, ts, width=width, eager=True, noise=UNIT / 500)
    for threshold in ts:
        kept, delta = naive(world, rule, threshold)
        found = search.found[threshold]
        np.testing.assert_array_equal(found.kept, kept)
        np.testing.assert_allclose(found.delta, delta, rtol=0, atol=UNIT / 100)
        harm = np.abs(delta) if rule.absolute else delta
        assert found.guarded >= (harm == threshold).sum()
        assert len(ts) > 1 or found.guarded == (harm == threshold).sum()
    singles = [question for question in workers.measures if len(question.candidates) == 1]
    assert len(singles) >= max(found.guarded for found in search.found.values())


def test_the_band_grows_with_the_metric_but_not_below_one():
    rule = Rule(1, absolute=False, guard=1e-6)
    assert rule.uncertain(0.1 + 0.9e-6, 0.1, 0.01)
    assert not rule.uncertain(0.1 + 1.1e-6, 0.1, 0.01)
    assert rule.uncertain(0.1 + 9e-6, 0.1, -10.0)
    assert Rule(1, absolute=True, guard=1e-6).uncertain(-0.1, 0.1, 1.0)
    assert not Rule(1, absolute=False, guard=1e-6).uncertain(-0.1, 0.1, 1.0)
    assert not Rule(1, absolute=False, guard=0.0).uncertain(0.1, 0.1, 1.0)
    assert not rule.uncertain(0.1, np.inf, 1.0)


# --- guesses ------------------------------------------------------------------------------------------------


class Alike(World):
    """A world in which a sender does the same to whoever reads it: every other one much, the rest little."""

    def __init__(self, graph):
        super().__init__(graph, (False,) * graph.n_layers, seed=0)
        self.single[:] = np.where(graph.edge_senders % 2, 100, 1)
        self.pair[:] = 0


def test_an_mlp_is_asked_about_once_where_senders_do_to_it_what_they_do_to_the_one_after_it():
    world = Alike(Graph(3, 4, 4))
    _, steps, _ = searched(world, Rule(1, absolute=False), [50 * UNIT])
    mlps = [step for step, _ in steps if world.graph.receivers[step.receiver].kind == "mlp"]
    assert [(step.rounds, step.evaluations) for step in mlps] == [
        (1, world.graph.senders_read[step.receiver]) for step in mlps
    ]


# --- what has no value --------------------------------------------------------------------------------------


class Hole(World):
    """A world without a value where one edge is gone."""

    def __init__(self, graph, edge, value):
        super().__init__(graph, (False,) * graph.n_layers, seed=1)
        self.edge, self.value = graph.edge_id(edge), value

    def values(self, kept):
        values = super().values(kept)
        return values if kept[self.edge] else np.where(np.arange(len(values)) == 1, self.value, values)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("edge", ["m1->logits", "input->logits", "a0.h1->m1", "input->a1.h0<k>"])
def test_a_metric_without_a_value_names_the_edge(edge, value, eager):
    world = Hole(Graph(2, 2, 2), edge, value)
    with pytest.raises(ScoreError) as error:
        searched(world, Rule(1, absolute=False), [-1.0, 3 * UNIT, -np.inf], eager=eager)
    assert edge in str(error.value)
    assert "\n" not in str(error.value)
