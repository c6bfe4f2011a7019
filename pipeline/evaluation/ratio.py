"""How sure a faithfulness is: the 95 % interval of a ratio of two means over the same prompts.

    f = mean(circuit - empty) / mean(full - empty)

Fieller's interval (1954): the values r for which mean(circuit - empty - r (full - empty)) is within Student's t of 0.
It is exact where the differences spread normally, for any number of prompts, and unbounded where full and empty are not
told apart: then nothing is known of f, and both ends are None. Knows arrays; not circuits or files.
"""

from dataclasses import dataclass
from math import hypot, sqrt

import numpy as np
from jaxtyping import Float

from pipeline.core.intervals import quantile

NO_DENOMINATOR = 1e-9  # a smaller difference of means is none
# Shares of the behaviour that differ by less are equal: sums of 32 bits over a model's width leave as much.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Ratio:
    """A ratio of means and the ends of its interval; None is what cannot be known."""

    value: float | None
    low: float | None = None
    high: float | None = None


def faithfulness_over(
    full: Float[np.ndarray, " prompt"],
    empty: Float[np.ndarray, " prompt"],
    circuit: Float[np.ndarray, " prompt"],
) -> Ratio:
    """The faithfulness of a circuit over prompts, with its interval; no interval of fewer than two prompts."""
    return ratio(circuit - empty, full - empty)


def ratio(above: Float[np.ndarray, " prompt"], below: Float[np.ndarray, " prompt"]) -> Ratio:
    """mean(above) / mean(below) of pairs, with Fieller's 95 % interval."""
    n = len(below)
    u, v = float(above.mean()), float(below.mean())
    if not abs(v) >= NO_DENOMINATOR:
        return Ratio(None)
    if n < 2:
        return Ratio(u / v)
    spread = np.cov(np.stack([above, below]), ddof=1) / n
    s_uu, s_uv, s_vv = float(spread[0, 0]), float(spread[0, 1]), float(spread[1, 1])
    t2 = quantile(n - 1) ** 2
    # (u - r v)^2 <= t^2 (s_uu - 2 r s_uv + r^2 s_vv), a parabola in r
    a, b, c = v * v - t2 * s_vv, u * v - t2 * s_uv, u * u - t2 * s_uu
    if a <= 0:
        return Ratio(u / v)
    reach = sqrt(max(b * b - a * c, 0.0))
    return Ratio(u / v, (b - reach) / a, (b + reach) / a)


def less(one: Ratio, other: Ratio, times: float) -> Ratio:
    """one - times x other of two that are independent, with the interval that theirs give (MOVER, Zou and Donner 2008):
    none where either has none."""
    if one.value is None or other.value is None:
        return Ratio(None)
    value = one.value - times * other.value
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return Ratio(value)
    below = hypot(one.value - one.low, times * (other.high - other.value))
    above = hypot(one.high - one.value, times * (other.value - other.low))
    return Ratio(value, value - below, value + above)
