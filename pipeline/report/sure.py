"""How sure each edge is: whether its score may be chance, and how often other prompts would have it in the circuit.

Knows merged scores of a run and, where they are kept, those of single prompts. Runs no model, writes nothing.
"""

import numpy as np
import pandas as pd

from pipeline.core.errors import CircuitsError
from pipeline.evaluation.resamples import bootstrap, certified
from pipeline.evaluation.significance import discoveries, no_effect
from pipeline.report.essentials import choose_circuit, evaluated, faithfulness, rows_of, scores, verdicts_of
from pipeline.store.run.opened import Run

COLUMNS = ("edge_id", "edge", "score", "n_prompts", "p", "q", "in_circuit", "inclusion", "certified")


def sure_edges(
    run: Run,
    task: str,
    method: str,
    *,
    top: int | None = None,
    rank: str | None = None,
    resamples: int = 100,
    votes: int = 1000,
    p_del: float = 0.6,
    alpha: float = 0.001,
    seed: int = 0,
) -> pd.DataFrame:
    """A row per edge, `COLUMNS`, the strongest first; of a circuit of `top` edges, else of the one that the page shows.

    `p` is Student's t test over prompts against a mean of zero, `q` Benjamini and Hochberg's over all edges that were
    tested. `inclusion` is the share of bootstrapped sets of prompts whose circuit has the edge, `certified` whether it
    is in (True) or out (False) by a majority of votes over random deletions that is sure at `alpha`. NaN and NA where
    that cannot be known: below two prompts, of methods that decide, and the last two without kept scores of every
    prompt.
    """
    frame = scores(run, task, method)
    if frame is None:
        raise CircuitsError(f"{run.path}: no scores of {method} on {task} yet; circuits resume {run.path}")
    merged = run.edge_scores(method, task)
    if top is None or merged.kept is not None:
        curve, verdicts = rows_of(faithfulness(run), task, method), verdicts_of(run, evaluated(run))
        circuit, about = choose_circuit(run, frame, curve, verdicts)
        rank = about["rank"] or run.ranks[0]
    else:
        rank = rank or run.ranks[0]
        circuit = run.circuit(method, task, top=top, rank=rank)
    n = np.asarray(merged.n_prompts)
    with np.errstate(divide="ignore", invalid="ignore"):
        sem = np.where(n > 1, merged.std / np.sqrt(n - 1.0), np.nan)
    decides = merged.kept is not None
    p = np.full(len(n), np.nan) if decides else no_effect(merged.score, sem, n)
    found = pd.DataFrame(
        {
            "edge_id": np.arange(len(n)),
            "edge": list(run.graph.edge_names),
            "score": merged.score,
            "n_prompts": n,
            "p": p,
            "q": discoveries(p),
            "in_circuit": circuit.mask,
            "inclusion": np.nan,
            "certified": pd.array([pd.NA] * len(n), dtype="boolean"),
        }
    )
    rows = None if decides else run.rows_of_prompts(method, task)
    if rows is not None and len(rows) > 1 and circuit.n_edges:
        drawn = bootstrap(run.graph, rows, circuit.n_edges, rank, resamples, seed)
        found["inclusion"] = drawn.mean(axis=0)
        if votes:
            sure = certified(run.graph, rows, circuit.n_edges, rank, p_del, votes, alpha, seed)
            known = sure.included | sure.excluded
            found["certified"] = pd.arrays.BooleanArray(sure.included, ~known)
    order = np.argsort(-np.abs(np.nan_to_num(merged.score)), kind="stable")
    return found.iloc[order].reset_index(drop=True)
