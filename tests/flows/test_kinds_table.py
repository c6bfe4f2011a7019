"""The table of behaviours whose prompts are told apart: what counts as misplaced, and that what is shown is what is
kept."""

import json

import numpy as np

from flows.kinds_table import FACTS, TABLE, config_of, is_parted, table, told_apart
from flows.methods_table import known


def scores_of(*centres, n=12):
    """Prompts whose scores lie around one of two directions each, or of several behaviours around the same one."""
    rng = np.random.default_rng(0)
    return [rng.normal(scale=0.05, size=(n, 40)) + 3 * np.eye(40)[centre] for centre in centres]


def test_prompts_are_misplaced_where_their_kind_is_mostly_of_another_behaviour():
    one, other = scores_of(0, 1)
    apart = told_apart({"a": one, "b": other})
    assert (apart["kinds"], apart["misplaced"], apart["prompts"]) == (2, 0, 24)
    assert is_parted(apart)
    strays = told_apart({"a": np.concatenate([one, other[:2]]), "b": other[2:]})
    assert (strays["kinds"], strays["misplaced"]) == (2, 2)
    alike = told_apart(dict(zip("ab", scores_of(0, 0), strict=True)))
    assert (alike["kinds"], alike["misplaced"]) == (1, 12)
    few = told_apart({"a": one[:3], "b": other[:3]})
    assert (few["kinds"], few["misplaced"], few["p"]) == (None, None, None)
    assert not any(map(is_parted, (strays, alike, few)))


def test_what_is_shown_is_what_is_kept_and_of_all_that_the_model_has():
    rows = json.loads(FACTS.read_text())
    assert table(rows) == TABLE.read_text()
    names = known()
    assert len(rows) == len(names) + 1 + len(names) * (len(names) - 1) // 2
    assert [*config_of(names, "results").task_ids] == names
