"""Small words of SVG: escaped elements, short numbers, ticks. Knows no run and no figure.

Figures carry classes and geometry only; colours live in `figures.css`, so that one figure follows the light
or dark scheme of its page, and a page may forbid style attributes altogether.
"""

import math
from collections.abc import Sequence
from importlib.resources import files

from markupsafe import Markup, escape

from pipeline.core.showing import or_zero

MINUS = "−"


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """One element. Strings are escaped, `Markup` is not; `class_` is class, `rx` is rx, `a_b` is a-b."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(escape(child) for child in children if child is not None)
    element = f"<{name}{written}>{inside}</{name}>" if children else f"<{name}{written}/>"
    return Markup(element)  # noqa: S704 - every part of it was escaped above


def figure(kind: str, width: float, height: float, label: str, *children: object) -> Markup:
    """The root element: scales down to its container, never up, and says in words what it shows."""
    return tag(
        "svg",
        *children,
        xmlns="http://www.w3.org/2000/svg",
        class_=f"figure {kind}",
        viewBox=f"0 0 {_short(width)} {_short(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
    )


def standalone(svg: str) -> str:
    """The figure as a file of its own, its colours inside, in either colour scheme."""
    css = files("pipeline.report").joinpath("figures.css").read_text(encoding="utf-8")
    head, end, rest = svg.partition(">")
    return f"{head}{end}<style>{css}</style>{rest}"


def text(x: float, y: float, words: object, class_: str = "", anchor: str | None = None) -> Markup:
    """Words at a point; `anchor` is start (the default), middle or end."""
    return tag("text", words, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def message(words: str) -> Markup:
    """What stands in a figure's place when there is nothing to draw."""
    return figure("message", 640, 48, words, text(12, 29, words, "muted"))


def number(value: float | None, sign: bool = False, digits: int = 3, scale: float = 0.0) -> str:
    """`digits` significant digits with a real minus sign; a dash for a missing value. What is rounding on the `scale`
    of its measure reads as 0."""
    if value is None or not math.isfinite(value):
        return "–"
    value = or_zero(value, scale)
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        written = f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e")
    else:
        decimals = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
        written = f"{value:.{min(decimals, 7)}f}"
    if sign and value > 0:
        written = "+" + written
    return written.replace("-", MINUS)


def percent(fraction: float) -> str:
    """A share as people read it: 0.1 %, 5 %, 100 %."""
    return f"{float(f'{100 * fraction:.2g}'):g} %" if fraction < 0.995 else f"{100 * fraction:.0f} %"


def linear_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers inside [low, high]."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float, *, whole: bool = True) -> list[float]:
    """1, 2, 5 times powers of ten inside [low, high], whole numbers unless told; powers alone over many decades."""
    steps: Sequence[int] = (1, 2, 5) if math.log10(high / low) <= 3.2 else (1,)
    ticks = [m * 10**p if p >= 0 else m / 10**-p for p in range(0 if whole else -9, 9) for m in steps]
    found = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    if whole and len(found) < 2:  # one says nothing of how far it is from end to end
        found = [tick for tick in dict.fromkeys((math.ceil(low), math.floor(high))) if low <= tick <= high]
    return found


def _short(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.1f}".rstrip("0").rstrip(".")
    return value
