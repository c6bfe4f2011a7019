"""How well scores tell the edges of a known circuit from the others.

    auroc = P(|score| of an edge of the circuit > |score| of another edge), a tie counts one half

(Mann-Whitney; as MIB's InterpBench and auto-circuit rank by |score|). Edges that were not measured rank last. A method
that decides has precision and recall of what it keeps besides.

Where a paper says which heads do something and not how they are connected, the same is found of nodes, `node_auroc`:
a node is worth its strongest edge to whoever reads it, kept where one of these is kept, and compared with the nodes of
its kind alone (MLPs are no part of a claim about heads).
"""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool

from pipeline.evaluation.base import Curve, Evaluation, Found, Subject, Values


class Auroc(Evaluation):
    """Area under the curve of true against false edges of the known circuit, ranked by the size of their scores."""

    by_rank: ClassVar[bool] = False

    name: Literal["auroc"] = "auroc"

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """auroc; and precision and recall of the kept set where there is one. None without a known circuit. The same
        of nodes where nodes are known."""
        truth, kept = subject.truth, subject.scores.kept
        found = [Found("auroc", None if truth is None else area(np.abs(subject.scores.score), truth))]
        if kept is not None:
            right = None if truth is None else int((kept & truth).sum())
            found.append(Found("precision", _share(right, int(kept.sum())), "kept"))
            found.append(Found("recall", _share(right, 0 if truth is None else int(truth.sum())), "kept"))
        return found if subject.true_nodes is None else [*found, *_of_nodes(subject, subject.true_nodes)]


def _of_nodes(subject: Subject, truth: Bool[np.ndarray, " sender"]) -> list[Found]:
    """The same numbers of the nodes whose kind the known ones are of."""
    graph, scores = subject.scores.graph, subject.scores
    kinds = {graph.senders[index].kind for index in np.flatnonzero(truth)}
    asked = np.asarray([node.kind in kinds for node in graph.senders])
    size = np.full(graph.n_senders, -1.0)  # of a node none of whose edges was measured
    np.maximum.at(size, graph.edge_senders, np.nan_to_num(np.abs(scores.score), nan=-1.0))
    found = [Found("node_auroc", area(size[asked], truth[asked]))]
    if scores.kept is not None:
        kept = np.bincount(graph.edge_senders[scores.kept], minlength=graph.n_senders)[asked] > 0
        right = int((kept & truth[asked]).sum())
        found.append(Found("node_precision", _share(right, int(kept.sum())), "kept"))
        found.append(Found("node_recall", _share(right, int(truth.sum())), "kept"))
    return found


def area(size: np.ndarray, truth: np.ndarray) -> float | None:
    """P(size of a true one > size of another), ties one half; None where either kind is missing. NaN ranks last."""
    import pandas as pd

    n_true, n_other = int(truth.sum()), int((~truth).sum())
    if not n_true or not n_other:
        return None
    ranks = pd.Series(np.nan_to_num(size, nan=-1.0)).rank().to_numpy()  # ties: their mean
    return float((ranks[truth].sum() - n_true * (n_true + 1) / 2) / (n_true * n_other))


def _share(right: int | None, of: int) -> float | None:
    return None if right is None or not of else right / of
