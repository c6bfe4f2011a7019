from pipeline.schedule.session import Event
from pipeline.schedule.telling import telling


def test_items_are_told_every_two_seconds_and_all_else_at_once():
    said, now = [], [0.0]
    tell = telling(said.append, lambda: now[0])

    def happens(at: float, kind: str, text: str, done: int) -> None:
        now[0] = at
        tell(Event(kind, text, 0.25, done=done, total=5))

    happens(0.0, "begin", "results/x", 0)
    happens(0.1, "item", "a", 1)
    happens(1.9, "item", "b", 2)
    happens(2.0, "item", "c", 3)
    happens(2.1, "failed", "d: no numbers", 3)
    happens(2.2, "item", "e\x1b[2J", 5)
    happens(2.3, "step", "aggregate", 5)
    assert said == [
        "5 of 5 items to do in results/x",
        "[3/5] c 0.25 s",
        "FAILED: d: no numbers",
        "[5/5] e\\x1b[2J 0.25 s",
        "merging the shards",
    ]
