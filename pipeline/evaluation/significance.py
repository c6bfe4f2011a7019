"""P-values of what is claimed of a circuit (Shi et al. 2024, arXiv 2410.13032), and of edges one by one. Knows arrays;
not circuits or files.

Each is valid: if the null hypothesis is true, p is at most a in at most a share a of all draws.
"""

import numpy as np
from jaxtyping import Float, Int


def equivalence(
    circuit: Float[np.ndarray, " prompt"], full: Float[np.ndarray, " prompt"], margin: float = 0.1
) -> float:
    """Null: the circuit does better than the model on a share of prompts within `margin` of one half.

    The share is tested where the null is hardest to reject, at 1/2 + margin; prompts without a difference are split. A
    small p says that the circuit is better, or worse, systematically.
    """
    from scipy.stats import binom

    n = len(full)
    better = float((circuit > full).sum()) + 0.5 * float((circuit == full).sum())
    away = abs(better - n / 2)
    counts = np.arange(n + 1)
    likely = binom.pmf(counts, n, 0.5 + margin)
    return float(min(1.0, likely[np.abs(counts - n / 2) >= away - 1e-9].sum()))


def independence(
    rest: Float[np.ndarray, " prompt"],
    full: Float[np.ndarray, " prompt"],
    permutations: int = 999,
    seed: int = 0,
) -> float:
    """Null: what the model does without the circuit says nothing of what it does: HSIC by permutation of prompts.

    Gaussian kernels, each as wide as the median distance. A small p says that something of the behaviour is left.
    """
    one, other = _kernel(rest), _kernel(full)
    centred = one - one.mean(axis=0) - one.mean(axis=1)[:, None] + one.mean()
    seen = float((centred * other).sum())
    rng = np.random.default_rng(seed)
    as_much = 0
    for _ in range(permutations):
        order = rng.permutation(len(full))
        as_much += float((centred * other[np.ix_(order, order)]).sum()) >= seen - 1e-12 * abs(seen)
    return (1 + as_much) / (1 + permutations)


def exceeds(value: float, drawn: Float[np.ndarray, " draw"]) -> float:
    """Null: the value comes from where the draws come from: (1 + draws at least as large) / (1 + draws)."""
    return (1 + int((drawn >= value).sum())) / (1 + len(drawn))


def no_effect(
    mean: Float[np.ndarray, " edge"], sem: Float[np.ndarray, " edge"], n: Int[np.ndarray, " edge"]
) -> Float[np.ndarray, " edge"]:
    """Null: the mean over all prompts is zero: Student's t test of each edge, two-sided.

    NaN below two prompts and where nothing was measured. Without spread a mean of zero has 1, any other 0.
    """
    from scipy.stats import t

    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.where((mean == 0) & (sem == 0), 0.0, np.abs(mean) / sem)
        return np.asarray(np.where(n > 1, 2 * t.sf(away, n - 1.0), np.nan))


def discoveries(p: Float[np.ndarray, " edge"]) -> Float[np.ndarray, " edge"]:
    """Benjamini and Hochberg's q (1995): among the edges of q at most a, a share a at most is expected to be false.

    The bound holds for independent tests and for those that depend positively; NaN where p is, which is no test.
    """
    from scipy.stats import false_discovery_control

    known, q = ~np.isnan(p), np.full(len(p), np.nan)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q


def _kernel(values: Float[np.ndarray, " prompt"]) -> Float[np.ndarray, "prompt other"]:
    distance = np.abs(values[:, None] - values[None])
    apart = distance[distance > 0]
    width = float(np.median(apart)) if len(apart) else 1.0
    return np.exp(-(distance**2) / (2 * width**2))
