"""What the tests of core draw from: graphs of every shape, and a plain rule for which edges they have."""

import numpy as np
from hypothesis import strategies as st

from pipeline.core.graph import Graph


@st.composite
def graphs(draw, max_layers=3):
    kv_heads = draw(st.integers(1, 3))
    return Graph(
        n_layers=draw(st.integers(1, max_layers)),
        n_heads=kv_heads * draw(st.integers(1, 3)),
        n_kv_heads=kv_heads,
        parallel=draw(st.booleans()),
        kv=draw(st.sampled_from(["query_head", "kv_head"])),
    )


circuits = st.tuples(
    graphs(),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),  # which layers are coupled
    st.integers(0, 2**32),
    st.sampled_from([0.02, 0.05, 0.1, 0.3, 0.7]),  # almost nothing is kept, or almost everything
)


def drawn(circuit):
    """A graph, which of its layers are coupled, and a random share of its edges to keep."""
    graph, coupled, seed, share = circuit
    return graph, coupled[: graph.n_layers], np.random.default_rng(seed).random(graph.n_edges) < share


def edge_names_by_rule(graph):
    """Every edge's name, by the rule alone: a receiver reads whatever was written before it reads.

    Time runs in half steps: block l reads for its heads at 2l and, unless blocks are parallel, for its MLP at
    2l + 1; heads write just after they read, an MLP at the end of its block.
    """
    writes = {"input": -0.5}
    reads = {}
    for layer in range(graph.n_layers):
        mlp_reads = 2 * layer if graph.parallel else 2 * layer + 1
        for head in range(graph.n_heads):
            writes[f"a{layer}.h{head}"] = 2 * layer + 0.5
            reads[f"a{layer}.h{head}<q>"] = 2 * layer
        for port in "kv":
            if graph.kv == "kv_head":
                for group in range(graph.n_kv_heads):
                    reads[f"a{layer}.kv{group}<{port}>"] = 2 * layer
            else:
                for head in range(graph.n_heads):
                    reads[f"a{layer}.h{head}<{port}>"] = 2 * layer
        writes[f"m{layer}"] = 2 * layer + 1.5
        reads[f"m{layer}"] = mlp_reads
    reads["logits"] = float("inf")
    return {f"{s}->{r}" for s, written in writes.items() for r, read in reads.items() if written < read}
