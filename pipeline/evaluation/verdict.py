"""Whether a circuit is what it is said to be: seven questions, each a number, its interval, a bar, and a word.

Knows what evaluations have found. Does not know circuits, files or how an answer is shown.

| question | number | yes if its whole interval is |
|---|---|---|
| sufficient | faithfulness of the circuit alone (`sufficiency`) | in [.85, 1.15] |
| necessary | faithfulness of all other edges (`necessity`) | at most .15 |
| minimal | share of its edges whose removal costs more than its standard error (`minimality`) | at least .9 |
| stable | mean Jaccard overlap of circuits of resampled prompts (`stability`) | at least .8, and 3 times chance |
| above chance | faithfulness of the circuit (`chance`) | above that of 95 of 100 random circuits |
| held out | faithfulness on prompts that did not choose it (`sufficiency`) | inside of the interval of those that did |
| beyond null data | overlap of resamples, less 1.5 times that on null data (`null_data`) | at least 0 |

No, where the whole interval is on the other side; undecided, where it holds the bar; not known, where there is no
number or no interval; not asked, where nothing has looked: the evaluation, prompts that are held out, or null data are
not there. Bars after the field's standards of 2025-26 (StressKit's stability card, arXiv 2410.13032), changeable in a
config (`evaluate.bars`).

Ends and bars that differ by rounding are equal: an interval may have no width, where all prompts say the same, and its
ends then are what float sums leave. What is not above a bar by more than rounding is not above it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.core.showing import or_zero
from pipeline.evaluation.ratio import ROUNDING, Ratio, less

Answer = Literal["yes", "no", "undecided", "not known", "not asked"]
# What an evaluation found, by its name, the circuit's label and the quantity.
Numbers = Mapping[tuple[str, str, str], float | None]

# whose numbers these are
EVALUATIONS = ("sufficiency", "necessity", "minimality", "chance", "stability", "null_data")
_COUNTED = 1e-9  # what shares and overlaps, which are counted and averaged, may be off by


class Bars(BaseModel):
    """Where yes ends."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sufficient: tuple[float, float] = (0.85, 1.15)
    necessary: float = 0.15
    minimal: float = 0.9
    stable: float = 0.8
    stable_over_chance: float = 3.0
    null_data: float = Field(default=1.5, gt=0)


@dataclass(frozen=True)
class Judgement:
    """One question and what is known of it. The interval is that of 95 %."""

    question: str
    value: float | None
    low: float | None
    high: float | None
    bar: str
    answer: Answer

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verdict(numbers: Numbers, bars: Bars | None = None, *, held_out: bool) -> list[Judgement]:
    """The judgements in the order of the table. `held_out`: the numbers are of prompts that did not choose the
    circuit; else that question is not asked."""
    bars = bars or Bars()

    def three(evaluation: str, quantity: str, circuit: str = "circuit") -> Ratio | None:
        of = [(evaluation, circuit, quantity + end) for end in ("", "_low", "_high")]
        return Ratio(*map(numbers.get, of)) if of[0] in numbers else None

    low, high = bars.sufficient
    faithful, before = three("sufficiency", "faithfulness"), three("sufficiency", "discovery") or Ratio(None)
    p95 = numbers.get(("chance", "random", "p95"))
    overlap, null = three("stability", "jaccard"), numbers.get(("stability", "circuit", "null"))
    needed = None if null is None else max(bars.stable, bars.stable_over_chance * null)
    on_null = three("null_data", "jaccard", "null")
    return [
        _judged("sufficient", faithful, f"in [{low:g}, {high:g}]", low, high),
        _judged(
            "necessary",
            three("necessity", "faithfulness", "complement"),
            f"at most {bars.necessary:g}",
            most=bars.necessary,
        ),
        _judged(
            "minimal",
            three("minimality", "costly"),
            f"at least {bars.minimal:g}",
            bars.minimal,
            off_by=_COUNTED,
        ),
        _judged("stable", overlap, f"at least {_number(needed or bars.stable)}", needed, off_by=_COUNTED),
        _judged(
            "above chance",
            three("chance", "faithfulness"),
            f"above {_number(p95)}, the 95th percentile of random circuits",
            p95,
            above=True,
        ),
        _judged(
            "held out",
            faithful if held_out else None,
            f"in [{_number(before.low)}, {_number(before.high)}], where it was found"
            if held_out
            else "no prompts are held out (held_out: N in the task)",
            before.low,
            before.high,
        ),
        _judged(
            "beyond null data",
            None if on_null is None else less(overlap or Ratio(None), on_null, bars.null_data),
            "no null data (beside the task another that says the same, with answers: shuffled)"
            if on_null is None
            else f"at least 0: the overlap of resamples less {bars.null_data:g} times {_number(on_null.value)}, that "
            "on null data",
            0.0,
            off_by=_COUNTED,
        ),
    ]


def _judged(
    question: str,
    found: Ratio | None,
    bar: str,
    least: float | None = None,
    most: float | None = None,
    *,
    above: bool = False,
    off_by: float = ROUNDING,
) -> Judgement:
    """`found`: None where nothing has looked. `above`: what is only as large as the least is not above it."""
    if found is None:
        return Judgement(question, None, None, None, bar, "not asked")
    value, low, high = found.value, found.low, found.high
    if value is None or low is None or high is None or (least is None and most is None):
        return Judgement(question, value, low, high, bar, "not known")
    least = -inf if least is None else least + (off_by if above else -off_by)
    most = inf if most is None else most + off_by
    if least <= low and high <= most:
        return Judgement(question, value, low, high, bar, "yes")
    outside = high < least or low > most
    return Judgement(question, value, low, high, bar, "no" if outside else "undecided")


def _number(value: float | None) -> str:
    return "?" if value is None else f"{or_zero(value, 1):.3g}"


def numbers_of(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], float | None]:
    """Rows of `Run.evaluations()` of one task and method as numbers."""
    return {(row["evaluation"], row["circuit"] or "", row["quantity"]): row["value"] for row in rows}


def cards(
    rows: Sequence[Mapping[str, Any]],
    sources: Mapping[str, str],
    bars: Bars | None = None,
) -> list[dict[str, Any]]:
    """A card per method and task whose prompts have judged: task, method, prompts, n_edges, rank, judgements. `sources`
    says which task each was judged for; `rank` is the rule that has won, None where there was one alone."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["evaluation"] in EVALUATIONS:
            found.setdefault((row["task"], row["method"]), []).append(row)
    made = []
    for (task, method), some in found.items():
        numbers, source = numbers_of(some), sources.get(task, task)
        made.append(
            {
                "task": source,
                "method": method,
                "prompts": task,
                "n_edges": numbers.get(("sufficiency", "circuit", "n_edges")),
                "rank": next((row["rank"] for row in some if row.get("rank") is not None), None),
                "judgements": [one.to_dict() for one in verdict(numbers, bars, held_out=source != task)],
            }
        )
    return made
