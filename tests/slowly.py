"""Cases of a test that are left to `make test-slow`, beside one that stays with the fast tests."""

from typing import Any

import pytest


def slow(*cases: Any) -> list[Any]:
    """These cases, marked; a tuple is the values of several parameters."""
    marks = pytest.mark.slow
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks) for case in cases]
