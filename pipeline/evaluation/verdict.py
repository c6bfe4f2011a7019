"""Whether a circuit is what it is said to be: six questions, each a number, its interval, a bar, and a word.

Knows what evaluations have found. Does not know circuits, files or how an answer is shown.

| question | number | yes if its whole interval is |
|---|---|---|
| sufficient | faithfulness of the circuit alone (`sufficiency`) | in [.85, 1.15] |
| necessary | faithfulness of all other edges (`necessity`) | at most .15 |
| minimal | share of its edges whose removal costs more than its standard error (`minimality`) | at least .9 |
| stable | mean Jaccard overlap of circuits of resampled prompts (`stability`) | at least .8, and 3 times chance |
| above chance | faithfulness of the circuit (`chance`) | above that of 95 of 100 random circuits |
| held out | faithfulness on prompts that did not choose it (`sufficiency`) | inside of the interval of those that did |

No, where the whole interval is on the other side; undecided, where it holds the bar; not known, where there is no
number or no interval. Bars after the field's standards of 2025-26 (StressKit's stability card, arXiv 2410.13032),
changeable in a config (`evaluate.bars`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Answer = Literal["yes", "no", "undecided", "not known"]
# What an evaluation found, by its name, the circuit's label and the quantity.
Numbers = Mapping[tuple[str, str, str], float | None]

EVALUATIONS = ("sufficiency", "necessity", "minimality", "chance", "stability")  # whose numbers these are


class Bars(BaseModel):
    """Where yes ends."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sufficient: tuple[float, float] = (0.85, 1.15)
    necessary: float = 0.15
    minimal: float = 0.9
    stable: float = 0.8
    stable_over_chance: float = 3.0


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
    """The six judgements in the order of the table. `held_out`: the numbers are of prompts that did not choose the
    circuit; else that question is not known."""
    bars = bars or Bars()

    def three(evaluation: str, quantity: str, circuit: str = "circuit") -> tuple[float | None, ...]:
        return tuple(numbers.get((evaluation, circuit, quantity + end)) for end in ("", "_low", "_high"))

    low, high = bars.sufficient
    faithful, before = three("sufficiency", "faithfulness"), three("sufficiency", "discovery")
    p95 = numbers.get(("chance", "random", "p95"))
    null = numbers.get(("stability", "circuit", "null"))
    overlap = None if null is None else max(bars.stable, bars.stable_over_chance * null)
    same = before if held_out else (None, None, None)
    return [
        _judged("sufficient", faithful, f"in [{low:g}, {high:g}]", (low, high)),
        _judged(
            "necessary",
            three("necessity", "faithfulness", "complement"),
            f"at most {bars.necessary:g}",
            (None, bars.necessary),
        ),
        _judged("minimal", three("minimality", "costly"), f"at least {bars.minimal:g}", (bars.minimal, None)),
        _judged(
            "stable",
            three("stability", "jaccard"),
            f"at least {_number(overlap or bars.stable)}",
            (overlap, None),
        ),
        _judged(
            "above chance",
            three("chance", "faithfulness"),
            f"above {_number(p95)}, the 95th percentile of random circuits",
            (p95, None),
        ),
        _judged(
            "held out",
            faithful if held_out else (None, None, None),
            f"in [{_number(same[1])}, {_number(same[2])}], where it was found"
            if held_out
            else "no prompts are held out (held_out: N in the task)",
            (same[1], same[2]),
        ),
    ]


def _judged(
    question: str, found: Sequence[float | None], bar: str, ends: tuple[float | None, float | None]
) -> Judgement:
    value, low, high = found
    if value is None or low is None or high is None or ends == (None, None):
        return Judgement(question, value, low, high, bar, "not known")
    least, most = (
        (-float("inf") if ends[0] is None else ends[0]),
        (float("inf") if ends[1] is None else ends[1]),
    )
    if least <= low and high <= most:
        return Judgement(question, value, low, high, bar, "yes")
    outside = high < least or low > most
    return Judgement(question, value, low, high, bar, "no" if outside else "undecided")


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


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
