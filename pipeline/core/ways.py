"""A way in which heads look at a prompt of some behaviour: from one named place to another.

Knows names alone.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """From a place to a place, each a span or `last`, and what the literature calls a head that looks so. The name says
    where a head looks, and not what it does."""

    source: str
    target: str
    called: str
