"""What the owner of a run knows of it costs the same for every item, however many there are."""

from contextlib import closing

from pipeline.schedule.preparing import prepare
from pipeline.store.run.run_dir import RunDirectory
from tests.runs import toy_config


def test_an_event_tells_how_many_items_there_are_without_asking_about_each(tmp_path, monkeypatch):
    asked = []
    counts = RunDirectory.counts
    with closing(prepare(toy_config(tmp_path))) as session:
        n_items = len(session.plan.items)
        monkeypatch.setattr(
            RunDirectory, "counts", lambda self, item: asked.append(item) or counts(self, item)
        )
        assert {session.event("item", "a").total for _ in range(10)} == {n_items}
        assert len(asked) == n_items

        limited = dict.fromkeys(session.config.task_ids, 1)
        session.directory.__dict__["limits"] = limited
        few = sum(item.shard < 1 for item in session.plan.items)
        assert session.event("item", "a").total == few < n_items
