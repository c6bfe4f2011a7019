"""Graphs with a planted circuit and frames like those of a run."""

from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from pipeline.core.graph import Graph
from pipeline.core.scores import rank_order

SVG = "{http://www.w3.org/2000/svg}"


def planted_frame(graph: Graph, seed: int = 0, active: int = 8) -> pd.DataFrame:
    """An aggregate frame in which `active` senders, input and logits carry all strong edges."""
    rng = np.random.default_rng(seed)
    strength = np.zeros(graph.n_senders)
    strength[rng.choice(graph.n_senders, active, replace=False)] = rng.uniform(0.3, 1.0, active)
    strength[0] = 1.0
    score = rng.normal(0, 1e-3, graph.n_edges)
    for receiver in range(graph.n_receivers):
        fed = graph.senders_fed_by(receiver)
        read = 1.0 if receiver == graph.logits_receiver else strength[fed.start : fed.stop].max()
        into = graph.edges_into(receiver)
        sign = rng.choice([1, 1, 1, -1], into.stop - into.start)
        score[into] += read * strength[: len(sign)] * sign * rng.uniform(0.2, 1.0, len(sign))
    rank = np.empty(graph.n_edges, dtype=int)
    rank[rank_order(score)] = np.arange(1, graph.n_edges + 1)
    sem = np.abs(score) * 0.1 + 1e-4
    return pd.DataFrame(
        {
            "edge_id": np.arange(graph.n_edges),
            "sender": [graph.senders[s].name for s in graph.edge_senders],
            "receiver": [graph.receivers[r].name for r in graph.edge_receivers],
            "score": score,
            "score_std": sem * np.sqrt(64),
            "score_sem": sem,
            "ci_low": score - 2 * sem,
            "ci_high": score + 2 * sem,
            "n_prompts": 64,
            "n_shards": 4,
            "rank": rank,
            "sign_agreement": np.full(graph.n_edges, np.nan),
            "kept_fraction": np.full(graph.n_edges, np.nan),
            "kept": np.full(graph.n_edges, np.nan),
        }
    )


def curve_rows(
    graph: Graph, task: str, method: str, values: dict[float | None, float | None]
) -> pd.DataFrame:
    """Rows of `run.faithfulness()`: faithfulness by edge fraction, None for a method's own decision."""
    rows = []
    for fraction, value in values.items():
        n_edges = 17 if fraction is None else int(fraction * graph.n_edges)
        rows.append(
            {
                "task": task,
                "method": method,
                "edge_fraction": np.nan if fraction is None else fraction,
                "n_edges": n_edges,
                "n_edges_pruned": n_edges,
                "metric": "logit_diff",
                "metric_full": 3.0,
                "metric_empty": -3.0,
                "metric_circuit": 1.0,
                "faithfulness": np.nan if value is None else value,
            }
        )
    return pd.DataFrame(rows)


def parse(svg: str) -> ET.Element:
    """The figure as XML; not well-formed is an error."""
    return ET.fromstring(svg)


def titles(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}title")]


def words(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


@pytest.fixture(
    params=[
        Graph(2, 4, 4),
        Graph(12, 12, 12),
        Graph(4, 8, 4, kv="kv_head"),
        Graph(6, 8, 8, parallel=True),
    ],
    ids=["2x4", "gpt2", "grouped", "parallel"],
)
def graph(request: pytest.FixtureRequest) -> Graph:
    return request.param
