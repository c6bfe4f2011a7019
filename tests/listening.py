"""Runs in this process, with everything that they say."""

from pipeline import discover


class Listener(list):
    """Keeps events; `names(kind)` are those of one kind, without what failed about them."""

    def __call__(self, event):
        self.append(event)

    def names(self, kind):
        return [event.text.split(":")[0] for event in self if event.kind == kind]


def go(config, **options):
    listener = Listener()
    return discover(config, local=True, on_event=listener, **options), listener
