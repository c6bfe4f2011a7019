"""Tables of what this project has found itself, as they lie under `results/reference`: facts, and a page of them.

Knows files and digits. Does not know what a table is of.
"""

import json
from pathlib import Path
from typing import Any

DIGITS = 4


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """Plain data whose numbers have a few digits: the last ones differ between machines."""
    if isinstance(value, dict):
        return {key: rounded(one, digits) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one, digits) for one in value]
    return round(value, digits) if isinstance(value, float) else value


def write_table(page: Path, facts: Any, text: str) -> None:
    """Writes the page, and beside it the facts as JSON."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".json").write_text(
        json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    page.write_text(text, encoding="utf-8")
