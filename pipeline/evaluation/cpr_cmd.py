"""The two areas of the MIB benchmark (arXiv 2504.13151), from the faithfulness f of circuits of ten sizes.

    CPR = integral of f(k) dk       CMD = integral of |1 - f(k)| dk

by trapezoids on k = .001 .002 .005 .01 .02 .05 .1 .2 .5 1 of the edges, linear in k, with no point at 0
(`evaluation.py` of the benchmark's circuit track). CPR belongs to edges ranked by signed score, CMD to edges ranked by
its size: the other one is null, and so are both on other sizes, or where some f is null. Half of their weight lies
above half of the edges; so the mean of f over log k stands beside them.
"""

from typing import Literal

import numpy as np

from pipeline.evaluation.base import Curve, Evaluation, Found, Subject, Values

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
NEAR = 0.15


class CprCmd(Evaluation):
    """The areas CPR and CMD of the MIB benchmark, the mean over log sizes, and the smallest size faithful within
    0.15."""

    name: Literal["cpr_cmd"] = "cpr_cmd"

    def find(self, subject: Subject, values: Values | None, curve: Curve) -> list[Found]:
        """cpr or cmd, as edges were ranked; log_area; smallest, the least share of edges with |1 - f| <= 0.15."""
        near = [size for size, f in curve if f is not None and abs(1 - f) <= NEAR]
        cpr, cmd = areas(curve)
        whole = cpr is not None
        sizes, f = np.array([(size, np.nan if f is None else f) for size, f in curve]).reshape(-1, 2).T
        logs = np.log(sizes)
        return [
            Found("cpr", cpr if subject.rank == "signed" else None),
            Found("cmd", cmd if subject.rank == "absolute" else None),
            Found("log_area", float(np.trapezoid(f, logs) / (logs[-1] - logs[0])) if whole else None),
            Found("smallest", min(near, default=None)),
        ]


def areas(curve: Curve) -> tuple[float | None, float | None]:
    """CPR and CMD of a curve, however its edges were ranked; None on other sizes, and where some f is null."""
    if tuple(size for size, _ in curve) != SIZES:
        return None, None
    sizes, f = np.array([(size, np.nan if f is None else f) for size, f in curve]).T
    if np.isnan(f).any():
        return None, None
    return float(np.trapezoid(f, sizes)), float(np.trapezoid(np.abs(1 - f), sizes))
