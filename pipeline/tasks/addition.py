"""Sums of two numbers in context (Stolfo et al., arXiv 2305.15054; Nikankin et al., arXiv 2410.21272).

    1 + 7 = 8, 3 + 4 =  ->  7

Knows sums and how tokenizers write numbers. Where a sum of two digits is one token, it is the answer; where numbers are
written by digits, the answer is the last digit of one-digit operands' sums, after the first, and the first digit of
two-digit operands' sums, which the carry changes.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Sizes, Writer, choice


class Addition(FramedTask):
    """`count` sums of operands of `digits` digits, after `shots` others; the answer is the sum, or a digit of it.

    `carry` says whether the units of the operands add up to ten or more: `without`, `with`, or `mixed`.
    Corruption: another second operand, with a carry where there was one; the wrong answer is that sum's.
    Spans: `a` and `b`, the operands; `a0`, `b0`, `s0` ... those of the shots and their sums; and `end`.
    """

    name: Literal["addition"] = "addition"
    digits: int = Field(default=1, ge=1, le=2)
    carry: Literal["without", "with", "mixed"] = "without"
    shots: int = Field(default=3, ge=0, le=20)

    paper: ClassVar = "arXiv 2305.15054"
    closed: ClassVar = True
    several: ClassVar = frozenset({"number", "shown"})
    instead: ClassVar = frozenset({"sum", "digit"})

    def frames(self) -> Sequence[str]:
        shots = "".join(f"{{number.a{i}}} + {{number.b{i}}} = {{shown.s{i}}}, " for i in range(self.shots))
        ends = ("{sum.answer}", "|{digit.answer}", "1{digit.answer}")
        return tuple(f"{shots}{{number.a}} + {{number.b}} = {end}" for end in ends)

    def lists(self) -> Mapping[str, Sequence[str]]:
        sums = sorted({a + b for a, b in self._sums()})
        numbers = sorted({n for both in self._sums() for n in both})
        return {
            "number": [str(n) for n in numbers],
            "sum": [str(n) for n in sums],
            "shown": [str(n) for n in sums],
            "digit": list("0123456789"),
        }

    def _sums(self) -> list[tuple[int, int]]:
        """The pairs of operands that the options allow; sums of two-digit operands have two digits."""
        operands = range(1, 10) if self.digits == 1 else range(10, 90)
        wanted = {"without": (False,), "with": (True,), "mixed": (False, True)}[self.carry]
        return [(a, b) for a in operands for b in operands if (a % 10 + b % 10 > 9) in wanted and a + b < 100]

    def writer(self, lexicon: Lexicon) -> Writer:
        whole, lead, after_one = self.frames()
        by_sum = lexicon.has("sum", *self.lists()["sum"])

        def answer(a: int, b: int) -> tuple[str, str]:
            """The frame that asks for a sum, and its answer."""
            text = str(a + b)
            if by_sum:
                return whole, text
            return (after_one, text[-1]) if self.digits == 1 and len(text) > 1 else (lead, text[0])

        sums, ways = [], dict[int, dict[int, tuple[bool, Sizes, str, str]]]()
        for a, b in self._sums():
            frame, right = answer(a, b)
            known = frame in lexicon.frames and lexicon.has("sum" if by_sum else "digit", right)
            shown = not self.shots or lexicon.has("shown", str(a + b))
            if known and shown and lexicon.has("number", str(a), str(b)):
                sums.append((a, b))
                carries, size = a % 10 + b % 10 > 9, lexicon.sizes["number"][str(b)]
                ways.setdefault(a, {})[b] = carries, size, frame, right

        @cache
        def questions(a: int) -> list[tuple[int, list[int]]]:
            """The second operands, each with those for which it may be exchanged: all stays, but the answer."""
            found = [
                (b, [other for other, (*its, y) in ways[a].items() if its == same and y != right])
                for b, (*same, right) in ways[a].items()
            ]
            return [(b, others) for b, others in found if others]

        asked = [a for a in ways if questions(a)]
        self.too_few(lexicon, "number", self.shots + 2, len(sums) if asked else 0)

        def draw(rng: np.random.Generator) -> Filling:
            a = choice(rng, asked)
            b, others = choice(rng, questions(a))
            other = choice(rng, others)
            near = [sums[i] for i in rng.choice(len(sums), size=self.shots + 2, replace=False)]
            shown = [pair for pair in near if pair not in ((a, b), (a, other))][: self.shots]
            clean = {"a": str(a), "b": str(b)}
            for i, (x, y) in enumerate(shown):
                clean |= {f"a{i}": str(x), f"b{i}": str(y), f"s{i}": str(x + y)}
            frame, right = answer(a, b)
            return Filling(frame, clean, {"b": str(other)}, (right,), (answer(a, other)[1],))

        return draw
