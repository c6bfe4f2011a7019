"""Whether rows of scores are of one kind or of several, by parting them where they are clearly two.

Rows count by the sizes of their scores: where the model prefers a wrong answer all signs of a prompt are turned, and
the edges are the same. By signs such prompts are kinds of their own, or hide how two behaviours differ. The price:
prompts that differ by degrees, so far that many scores change their sign on the way, look like two kinds.

DCD (arXiv 2605.09129) clusters each prompt's scores, the fewest that carry a share `gamma` of their sum of sizes, after
a reduction to principal components, and takes the number of clusters of the largest silhouette. That number is never
one, and the silhouette of a random cut grows with how few directions carry the spread. So rows, at unit length, are
cut in two along a principal component instead (as in Boley 1998), each part again along its own, as long as two things
hold: the best cut of the component leaves within its halves a share w of the spread that is small for as many draws of
a normal distribution (p), and the halves' means are at least `bar` standard deviations apart,

    separation = 2 sqrt(1 / w - 1)        4 of them: one row in forty or so would be on the wrong side

Where one holds and the other does not, how many kinds there are is not known: the halves of too few rows may be far
apart by chance, and two kinds near to each other.

Several kinds that are as far from each other as any two may show along no component alone; of the first few the one
that parts best is taken, and p is multiplied by their number. Knows arrays; not edges, tasks or files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

_COLUMNS = 1 << 14  # at once, in float64

Rows = Float[np.ndarray, "row column"]
Products = Float[np.ndarray, "row other"]


@dataclass(frozen=True)
class Cut:
    """The best cut of some rows in two: how far apart the halves are, how likely one kind is as far, which is which."""

    separation: float
    p: float
    second: Bool[np.ndarray, " row"]


@dataclass(frozen=True)
class Parted:
    """Rows by kind, the largest first; and the cut of all rows, whether or not it was made. `decided`: whether both
    or neither of what a cut needs hold of it."""

    labels: Int[np.ndarray, " row"]
    first: Cut
    decided: bool

    @property
    def n(self) -> int:
        return int(self.labels.max()) + 1


def parted(
    rows: Rows, gamma: float, components: int, least: int, most: int, bar: float, alpha: float, draws: int
) -> Parted | None:
    """Rows by kind, none of fewer than `least` rows and at most so many; None of too few rows to be cut. The part that
    is cut next is the one whose halves are furthest apart."""
    if len(rows) < 2 * least or least < 2:
        return None
    products = cosines(rows, gamma)
    first = best_cut(products, least, components, draws)
    parts: list[tuple[Int[np.ndarray, " member"], Cut | None]] = [(np.arange(len(rows)), first)]
    while len(parts) < most:
        clear = [
            (cut.separation, -i, cut)
            for i, (_, cut) in enumerate(parts)
            if cut is not None and cut.separation >= bar and cut.p <= alpha
        ]
        if not clear:
            break
        _, place, cut = max(clear, key=lambda one: one[:2])
        members, _ = parts.pop(-place)
        for half in (members[~cut.second], members[cut.second]):
            again = (
                best_cut(products[np.ix_(half, half)], least, components, draws)
                if len(half) >= 2 * least
                else None
            )
            parts.append((half, again))
    labels = np.zeros(len(rows), dtype=np.int64)
    for number, (members, _) in enumerate(sorted(parts, key=lambda part: (-len(part[0]), part[0][0]))):
        labels[members] = number
    return Parted(labels, first, (first.separation >= bar) == (first.p <= alpha))


def cosines(rows: Rows, gamma: float) -> Products:
    """Products of the sizes in rows at unit length, each with its largest alone; a row of zeros stays what it is."""
    least = np.asarray([_smallest_kept(row, gamma) for row in rows])
    products = np.zeros((len(rows), len(rows)))
    for part in _columns(rows):
        part[part < least[:, None]] = 0.0
        products += part @ part.T
    length = np.sqrt(np.diag(products))
    length[length == 0] = 1.0
    return np.asarray(products / np.outer(length, length))


def best_cut(products: Products, least: int, components: int, draws: int) -> Cut:
    """The clearest cut along one of the first principal components, each half of at least `least` rows."""
    n = len(products)
    centred = products - products.mean(axis=0) - products.mean(axis=1)[:, None] + products.mean()
    first = np.linalg.eigh(centred)[1][:, ::-1][:, : min(components, n)].T
    order = np.argsort(first, axis=1, kind="stable")
    within, place = _within(np.take_along_axis(first, order, axis=1), least)
    best = int(within.argmin())
    second = np.zeros(n, dtype=bool)
    second[order[best, place[best] :]] = True
    as_clear = int((_of_one_kind(n, least, draws) <= within[best]).sum())
    p = min(1.0, len(first) * (1 + as_clear) / (1 + draws))
    return Cut(float(2 * np.sqrt(1 / max(within[best], 1e-12) - 1)), p, second)


@lru_cache(maxsize=256)
def _of_one_kind(n: int, least: int, draws: int) -> Float[np.ndarray, " draw"]:
    """What is left within the halves of so many draws of n normal numbers."""
    drawn = np.random.default_rng([n, least]).normal(size=(draws, n))
    return _within(np.sort(drawn, axis=1), least)[0]


def _within(
    ordered: Float[np.ndarray, "draw row"], least: int
) -> tuple[Float[np.ndarray, " draw"], Int[np.ndarray, " draw"]]:
    """Of rising numbers the least share of their spread that a cut in two leaves within the halves, and how many are in
    the first; 1 where they are all the same."""
    n = ordered.shape[1]
    centred = ordered - ordered.mean(axis=1, keepdims=True)
    first = np.arange(least, n - least + 1)
    sums = np.cumsum(centred, axis=1)[:, first - 1]
    between = sums**2 / first + sums**2 / (n - first)
    best = between.argmax(axis=1)
    whole = (centred**2).sum(axis=1)
    of_best = np.take_along_axis(between, best[:, None], axis=1)[:, 0]
    share = np.divide(of_best, whole, out=np.zeros_like(whole), where=whole > 0)
    return np.maximum(1 - share, 0.0), first[best]


def _columns(rows: Rows) -> Iterator[Rows]:
    """The sizes in some columns at a time in float64; what is not known is 0."""
    for start in range(0, rows.shape[1], _COLUMNS):
        yield np.abs(np.nan_to_num(np.asarray(rows[:, start : start + _COLUMNS], dtype=np.float64)))


def _smallest_kept(row: Float[np.ndarray, " column"], gamma: float) -> float:
    """The smallest of the fewest sizes whose sum is a share gamma of all."""
    if gamma >= 1:
        return 0.0
    ordered = np.sort(np.abs(np.nan_to_num(np.asarray(row, dtype=np.float64))))[::-1]
    total = np.cumsum(ordered)
    return float(ordered[min(int(np.searchsorted(total, gamma * total[-1])), len(ordered) - 1)])
