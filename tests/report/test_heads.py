"""The main heads of a circuit in words: what each reads, writes and looks at."""

import numpy as np

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.ways import Way
from pipeline.report.heads import described, main_heads

GRAPH = Graph(2, 2, 2)
EDGES = {
    "input->a0.h1<v>": 0.5,
    "a0.h1->a1.h0<k>": 0.4,
    "input->a1.h0<q>": 0.2,
    "a1.h0->logits": -1.5,
    "a0.h0->logits": 3.0,  # dangles: nothing feeds it
}
WAYS = (Way("last", "io", "name mover"), Way("s2", "s1", "S-inhibition head"))


def circuit():
    score = np.full(GRAPH.n_edges, np.nan)
    for name, value in EDGES.items():
        score[GRAPH.edge_id(name)] = value
    return Circuit(GRAPH, GRAPH.mask(tuple(EDGES))), score


def test_heads_come_by_the_strength_of_what_they_write_and_dangling_ones_not_at_all():
    assert main_heads(*circuit()) == [(1, 0), (0, 1)]
    assert main_heads(*circuit(), 1) == [(1, 0)]


def test_words_name_neighbours_the_sign_and_the_ways_of_looking_that_are_taken():
    heads = main_heads(*circuit())
    first, second = described(*circuit(), heads, WAYS, np.array([[0.71, 0.1], [np.nan, 0.2]]))
    assert first["words"] == (
        "a1.h0 (-1.50): reads a0.h1 by <k>, input by <q>; writes against the behaviour to logits; looks from last at "
        "io (71%), as a name mover does"
    )
    assert second["words"] == (
        "a0.h1 (+0.40): reads input by <v>; writes to a1.h0<k>; looks from s2 at s1 (20%), as an S-inhibition head does"
    )
    assert second["looks"] == {"last->io": None, "s2->s1": 0.2}
