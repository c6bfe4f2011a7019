"""How wide a 95 % interval for a mean over few prompts is (Student's t), and one for a share of them (Wilson's).

Knows quantiles of Student's distribution. Does not know what was averaged, nor files.

The normal quantile 1.96 is right for hundreds of prompts alone: for 2 the interval must be 6.5 times as wide. Student's
holds the mean in 95 % of all draws where prompts spread normally; where few prompts carry all of a score, less
often (`tests/store/run/test_coverage.py` measures how often).
"""

from functools import cache
from math import cos, pi, sin, sqrt, tan

import numpy as np
from jaxtyping import Float, Int

Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution

_SUMMED_UP_TO = 1000  # degrees of freedom; beyond, an expansion in 1 / degrees is exact to 1e-15


def t_95(n: Int[np.ndarray, " entry"]) -> Float[np.ndarray, " entry"]:
    """How many standard errors the 95 % interval of a mean over n prompts reaches either way; NaN below two prompts."""
    values, places = np.unique(n, return_inverse=True)
    reach = [quantile(int(value) - 1) if value > 1 else np.nan for value in values]
    return np.asarray(reach, dtype=np.float64)[places]


def wilson_95(right: int, n: int) -> tuple[float, float]:
    """Both ends of Wilson's 95 % interval for a share of which `right` of `n` draws were seen (Wilson 1927): unlike
    right / n +- 1.96 standard errors it is no point where all or none were right, and never leaves [0, 1]."""
    z2, share = Z_95**2, right / n
    middle, reach = share + z2 / (2 * n), Z_95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = (middle - reach) / (1 + z2 / n), (middle + reach) / (1 + z2 / n)
    return (low if right else 0.0), (high if right < n else 1.0)


@cache
def quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, to 1e-12 (Abramowitz and Stegun 26.7.3, 26.7.4 and 26.7.5)."""
    if degrees > _SUMMED_UP_TO:
        return _expanded(degrees)
    low, high = 0.0, pi / 2  # the angle whose tangent is t / sqrt(degrees)
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return tan(high) * sqrt(degrees)
        low, high = (low, middle) if _within(middle, degrees) > 0.95 else (middle, high)


def _within(angle: float, degrees: int) -> float:
    """The probability of |t| / sqrt(degrees) below the tangent of the angle: finite sums of positive terms."""
    sine, cosine = sin(angle), cos(angle)
    odd = degrees % 2
    steps = np.arange(1 + odd, degrees - 1, 2)  # each term is the one before times k / (k + 1) cos^2
    terms = np.cumprod(np.concatenate([[cosine if odd else 1.0], steps / (steps + 1.0) * cosine**2]))
    if odd:
        return 2 / pi * (angle + (sine * float(terms.sum()) if degrees > 1 else 0.0))
    return float(sine * terms.sum())


def _expanded(degrees: int) -> float:
    """The quantile as a series in 1 / degrees (Cornish and Fisher)."""
    z, z2 = Z_95, Z_95**2
    parts = (
        1.0,
        (z2 + 1) / 4,
        ((5 * z2 + 16) * z2 + 3) / 96,
        (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384,
        ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / 92160,
    )
    return z * sum(part / degrees**power for power, part in enumerate(parts))
