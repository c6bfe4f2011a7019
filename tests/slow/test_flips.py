"""One flipped bit anywhere in a run, and `circuits verify` names the file."""

import random

import pytest

from flows.cli import main
from pipeline import discover
from pipeline.store.place.where import found, relative
from pipeline.store.run.compact import compact
from tests.runs import toy_config

CHANGES = {
    "methods": [{"name": "eap"}, {"name": "node_patching"}, {"name": "acdc", "threshold": 0.01}],
    "ablation": "mean",
    "store": {"prompt_scores": True},
    "tasks": [{"name": "induction", "count": 8}],
    "shards": {"prompts": 4},
    "evaluate": {"edge_fractions": [0.2, 0.5]},
}


@pytest.fixture(scope="module", params=["own files", "packs"])
def run(request, tmp_path_factory):
    """A complete run with a file of every kind."""
    path = discover(toy_config(tmp_path_factory.mktemp("results"), **CHANGES), local=True).path
    if request.param == "packs":
        compact(path)
    return path


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.long)])
def test_every_flipped_bit_is_seen(run, count, capsys):
    rng = random.Random(count)
    files = [path for path in found(run, "**/*") if path.name[0] != "."]
    assert main(["verify", str(run)]) == 0
    unseen = []
    for number in range(count):
        path = files[number % len(files)] if number < len(files) else rng.choice(files)
        content = path.read_bytes()
        bit = rng.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        capsys.readouterr()
        code = main(["verify", str(run)])
        said = capsys.readouterr()
        if not (code == 3 and f"{relative(path, run)}: " in said.out) or "Traceback" in said.err:
            unseen.append((str(relative(path, run)), bit, code, said.out[-300:], said.err[-300:]))
        path.write_bytes(content)
    print(f"{count} flips in {len(files)} files, {len(unseen)} unseen")
    assert unseen == []
    assert main(["verify", str(run)]) == 0
