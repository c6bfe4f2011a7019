"""Rows are parted where there are several kinds of them, and left together where there is one."""

import numpy as np
import pytest
from scipy.stats import norm

from pipeline.evaluation.clustering import best_cut, cosines, parted

PLAIN = {"gamma": 1.0, "components": 3, "most": 20, "bar": 4.0, "alpha": 0.01, "draws": 499}


def kinds(sizes, *, apart, seed=0, n_columns=300):
    """Rows of as many kinds around centres of their own, shuffled, and which kind each is of."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = rng.normal(size=(len(sizes), n_columns))
    return apart * centres[truth] + rng.normal(size=(len(truth), n_columns)), truth


@pytest.mark.parametrize("sizes", [(20, 20), (30, 8), (16, 12, 10), (12, 12, 12, 12)])
def test_kinds_that_are_apart_are_found(sizes):
    rows, truth = kinds(sizes, apart=1.0)
    found = parted(rows, least=4, **PLAIN)
    assert found.n == len(sizes)
    assert len({*zip(truth.tolist(), found.labels.tolist(), strict=True)}) == len(sizes)
    assert np.bincount(found.labels).tolist() == sorted(sizes, reverse=True)
    assert found.first.separation > 4


def test_one_kind_is_one_however_its_rows_differ_in_size():
    rng = np.random.default_rng(0)
    several = 0
    for draw in range(40):
        rows = rng.normal(size=40) + rng.normal(size=(40, 40))
        rows *= np.exp(rng.normal(size=(40, 1))) if draw % 2 else 1.0
        if draw % 3 == 0:
            # one direction in which they differ by degrees, less than so far that scores change their sign
            rows += 0.3 * np.outer(rng.normal(size=40), rng.normal(size=40))
        several += parted(rows, least=4, **PLAIN).n > 1
    assert several <= 2  # 1 % and what luck adds


def test_p_is_uniform_where_there_is_one_kind():
    rng = np.random.default_rng(1)
    ps = np.asarray([best_cut(np.outer(x, x), 3, 1, 199).p for x in rng.normal(size=(200, 24))])
    for level in (0.05, 0.25, 0.5):
        share = (ps <= level).mean()
        assert abs(share - level) <= 3 * np.sqrt(level * (1 - level) / 200)


def test_separation_is_in_standard_deviations_of_a_half():
    rng = np.random.default_rng(2)
    position = np.concatenate([rng.normal(size=100), 10 + rng.normal(size=100)])
    cut = best_cut(np.outer(position, position), 10, 1, 19)
    assert cut.separation == pytest.approx(10, rel=0.1)
    assert cut.second.sum() == 100


def test_rows_count_by_their_direction_alone():
    rows, _ = kinds((10, 10), apart=1.0)
    length = np.linspace(0.1, 50, 20)[:, None]
    np.testing.assert_allclose(cosines(rows * length, 1.0), cosines(rows, 1.0), atol=1e-12)


def test_prompts_whose_signs_are_turned_are_of_the_same_kind():
    """As where the model prefers the wrong answer: the same edges, of scores that are all negative."""
    rng = np.random.default_rng(3)
    rows, truth = kinds((20, 20), apart=1.5)
    turned = rows * rng.choice([-1.0, 1.0], size=(40, 1))
    np.testing.assert_allclose(cosines(turned, 0.9), cosines(rows, 0.9))
    found = parted(turned, least=4, **PLAIN)
    assert found.n == 2
    assert len({*zip(truth.tolist(), found.labels.tolist(), strict=True)}) == 2
    assert parted(turned[truth == 0], least=4, **PLAIN).n == 1


def test_what_is_neither_clearly_two_kinds_nor_clearly_one_is_not_decided():
    rng = np.random.default_rng(4)
    seen = set()
    for n, gap in [(8, 0.0), (8, 5.0), (200, 3.2), (80, 0.0), (80, 8.0)]:
        position = np.concatenate([rng.normal(size=n // 2), gap + rng.normal(size=n // 2)])
        rows = np.outer(position, [1.0, 0.0]) + np.asarray([50.0, 100.0])  # an angle, nearly the position
        found = parted(rows, least=4, **{**PLAIN, "components": 1})
        far, unlikely = found.first.separation >= 4, found.first.p <= 0.01
        assert found.decided == (far == unlikely)
        assert (found.n > 1) == (far and unlikely)
        seen.add((bool(far), bool(unlikely)))
    assert seen == {(True, True), (True, False), (False, True), (False, False)}


def test_of_prompts_that_are_not_decided_no_number_is_said_and_no_kind():
    from pipeline.core.graph import Graph
    from pipeline.core.scores import EdgeScores, Moments
    from pipeline.evaluation.base import Subject
    from pipeline.evaluation.clusters import Clusters
    from pipeline.report.matrices import kinds as in_words

    graph = Graph(1, 2, 2)
    for n, gap, number in [(200, 3.0, None), (200, 8.0, 2.0), (200, 0.0, 1.0), (7, 8.0, None)]:
        quantiles = norm.ppf((np.arange(n // 2) + 0.5) / (n // 2))
        position = np.concatenate([quantiles, gap + quantiles, [gap] * (n % 2)])
        rows = np.zeros((n, graph.n_edges))
        rows[:, :2] = np.stack([50 + position, np.full(n, 100.0)], axis=1)
        scores = EdgeScores.from_moments(graph, Moments.of(rows))
        subject = Subject(
            "task", "eap", scores, "logit_diff", "corrupted",
            rows_of_prompts=lambda rows=rows: rows, ids_of_prompts=lambda n=n: range(n),
        )  # fmt: skip
        found = Clusters(components=1, draws=499).find(subject, None, ())
        numbers = {one.quantity: one.value for one in found}
        assert numbers["clusters"] == number
        assert (numbers["separation"] is None) == (n == 7)
        assert ("cluster" in numbers) == (number is not None)
        said = [{"evaluation": "clusters", "task": "task", "method": "eap", **vars(one)} for one in found]
        (words,) = in_words(said)
        expected = {None: "one kind of prompts or two", 1.0: "one kind of prompts;", 2.0: "2 kinds"}[number]
        assert ("of eight or more" if n == 7 else expected) in words["words"]


def test_gamma_keeps_the_fewest_entries_that_carry_its_share():
    rows = np.asarray([[6.0, -3.0, 1.0, 0.0], [1.0, 1.0, 1.0, 7.0]])
    kept = np.asarray([[6.0, -3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 7.0]])  # .9 of 10 is 9; of equal ones all
    np.testing.assert_allclose(cosines(rows, 0.9), cosines(kept, 1.0))


def test_no_kind_is_smaller_or_more_than_asked():
    rows, _ = kinds((30, 3), apart=2.0)
    assert (
        parted(rows, least=4, **PLAIN).n == 1 or min(np.bincount(parted(rows, least=4, **PLAIN).labels)) >= 4
    )
    many, _ = kinds((10,) * 6, apart=2.0)
    assert parted(many, least=4, **{**PLAIN, "most": 3}).n == 3
    assert parted(rows[:7], least=4, **PLAIN) is None


def test_rows_that_are_all_the_same_are_of_one_kind():
    assert parted(np.ones((12, 5)), least=4, **PLAIN).n == 1
    assert parted(np.zeros((12, 5)), least=4, **PLAIN).n == 1
