"""What is done, told from the files: quickly where a file says by its seal that it is whole."""

import pytest

from pipeline.core.items import Item
from pipeline.store.run import item_files
from pipeline.store.run.opened import open_run


def test_a_file_that_is_sealed_and_whole_needs_no_look_into_its_footer(complete, monkeypatch):
    def parsed(*_):
        raise AssertionError("a footer was parsed")

    monkeypatch.setattr(item_files, "read_footer", parsed)
    status = open_run(complete.path).status()
    assert status["done"] == status["items"] == len(complete.items)


@pytest.mark.parametrize("at", [0.9, -2])
def test_any_other_file_is_looked_into(complete, at):
    item = Item("scores", "ioi", "eap", 1)
    path = complete.path / item.path
    content = bytearray(path.read_bytes())
    content[int(at * len(content)) if at > 0 else at] ^= 1
    path.write_bytes(content)
    run = open_run(complete.path)
    assert item not in run.directory.done(rename=False)
    (complete.path / Item("scores", "ioi", "eap", 0).path).replace(path)
    assert item not in open_run(complete.path).directory.done(rename=False), "it is another item's"
