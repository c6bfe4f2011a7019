"""How things look at a prompt and in a notebook: one line that says what they are, and a table where there is one.

Knows text and frames. Does not know what is shown.
"""

from collections.abc import Iterable
from html import escape
from typing import Any

SHOWN = 10  # rows of a table, and names in a line
NOISE = 1e-6  # what is a smaller share of what it is measured on is what float sums leave


def names(values: Iterable[object]) -> str:
    """The values in brackets, the first ten and how many more."""
    texts = [str(value) for value in values]
    more = f", and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return f"[{', '.join(texts[:SHOWN])}{more}]"


def or_zero(value: float, scale: float) -> float:
    """The value as it is shown: 0 where it is rounding on the scale of its measure. Files keep what was computed."""
    return 0.0 if abs(value) < NOISE * abs(scale) else value


def page(title: object, frame: Any) -> str:
    """HTML of a title and the first rows of a frame."""
    return (
        f"<p>{escape(str(title))}</p>{frame.head(SHOWN).to_html(index=False, float_format='{:.4g}'.format)}"
    )
