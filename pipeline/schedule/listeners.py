"""Who hears how far planning is: planning is called from many places, and a display has one owner.

Knows listeners. Does not know prompts or terminals.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OnProgress = Callable[[str, int, float], None]  # task, prompts so far, how much of its file or count that is


def unseen(task: str, prompts: int, share: float) -> None:
    """Shows nothing."""


_LISTENER: ContextVar[OnProgress] = ContextVar("planning", default=unseen)


@contextmanager
def heard_by(listener: OnProgress) -> Iterator[None]:
    """While the block runs, `listener` hears of every thousand or so prompts that `make_plan` takes in."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell(task: str, prompts: int, share: float) -> None:
    """Tells whoever listens."""
    _LISTENER.get()(task, prompts, share)
