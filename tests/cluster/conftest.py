"""The pools under test, both kinds, over jobs of `trivial.py`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.workers import trivial


@pytest.fixture
def opener(tmp_path: Path) -> trivial.Opener:
    return trivial.Opener(tmp_path)


@pytest.fixture
def ray_pool(ray_session: None) -> Iterator[Callable]:
    """Makes Ray pools over the session's Ray; they are closed after the test."""
    from pipeline.cluster.pool import RayPool

    pools = []

    def make(opener: Callable, **kwargs) -> RayPool:
        pools.append(RayPool(opener, **kwargs))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stragglers are late after a second instead of ten."""
    monkeypatch.setattr("pipeline.cluster.pace.LEAST_SECONDS", 1.0)
