"""Runs in this process: everything that they say, which evaluations they run, and where they break off."""

from contextlib import contextmanager

import pytest

from pipeline import discover
from pipeline.workers.circuit_values import values_of


class Listener(list):
    """Keeps events; `names(kind)` are those of one kind, without what failed about them."""

    def __call__(self, event):
        self.append(event)

    def names(self, kind):
        return [event.text.split(":")[0] for event in self if event.kind == kind]


def go(config, **options):
    listener = Listener()
    return discover(config, local=True, on_event=listener, **options), listener


@contextmanager
def evaluating(dies=lambda names: False):
    """Yields the names of evaluated shards as their circuits are run here. A KeyboardInterrupt comes before those of
    one at which the run `dies`, as the names up to it tell."""
    names = []

    def listened(name, *args):
        names.append(name)
        if dies(names):
            raise KeyboardInterrupt
        return values_of(name, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.workers.execute.values_of", listened)
        yield names


def broken_off(config, dies):
    """The names of the shards that were evaluated before the run died."""
    with evaluating(dies) as names, pytest.raises(KeyboardInterrupt):
        go(config)
    return names[:-1]
