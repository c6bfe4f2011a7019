"""A handler of SIGTERM outlives what Ray does to it."""

import ctypes
import signal
import threading
import time

import pytest

from pipeline.cluster import signals
from tests.processes import wait_for

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sigaction")


@pytest.fixture
def heard():
    """As many entries as SIGTERM was heard by Python's handler."""
    times = []
    before = signal.signal(signal.SIGTERM, lambda *_: times.append(signal.SIGTERM))
    yield times
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def silent(monkeypatch):
    """A Ray that does not say what it believes."""
    monkeypatch.setattr(signals, "BELIEF", "no such name")


def take_over(action=signal.SIG_IGN):
    """What Ray's C++ part does: Python's `getsignal` knows nothing of it."""
    ctypes.CDLL(None).sigaction(int(signal.SIGTERM), ctypes.create_string_buffer(bytes([action]), 512), None)


def test_a_handler_that_is_taken_over_is_put_back_at_once_and_at_the_end(heard, silent):
    with signals.kept():
        take_over()
        wait_for(lambda: signal.raise_signal(signal.SIGTERM) or heard)
        take_over()
    before = len(heard)
    signal.raise_signal(signal.SIGTERM)
    assert len(heard) == before + 1


def test_it_works_from_any_thread(heard, silent):
    def start():
        with signals.kept():
            take_over()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    signal.raise_signal(signal.SIGTERM)
    assert len(heard) == 1


def test_where_nobody_listens_nothing_is_kept(silent):
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with signals.kept():
            take_over()
            time.sleep(0.05)
        signal.raise_signal(signal.SIGTERM)  # would end this process
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("starting", "rays"),
    [
        (True, "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"),
        (False, "_ZN3ray6RayLog21UninstallSignalActionEv"),
    ],
)
def test_ray_itself_takes_nothing_over(heard, starting, rays):
    from ray import _raylet

    with signals.kept(starting=starting):
        getattr(ctypes.CDLL(_raylet.__file__), rays)(None, True)
        signal.raise_signal(signal.SIGTERM)
    assert len(heard) == 1
