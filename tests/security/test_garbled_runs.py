"""Any file of a finished run that went wrong: every command says so in a line, and nothing else of the run is lost."""

import contextlib
import json
import random
import shutil
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load_file

from flows.cli import main
from pipeline.models.toy import toy_path
from tests.runs import PAIR, content, toy_mapping
from tests.security import garble

COMMANDS = (["status"], ["show"], ["verify"], ["resume", "--local", "--quiet"], ["verify"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is complete, with prompts of a file, statistics, a pooled search, nodes, and every prompt's scores."""
    project = tmp_path_factory.mktemp("finished")
    shutil.copytree(toy_path("toy:planted"), project / "model")
    (project / "pairs.jsonl").write_text(f"{json.dumps(PAIR)}\n" * 4)
    config = toy_mapping(
        "results",
        model={"name": str(project / "model")},
        tasks=[{"name": "file", "path": str(project / "pairs.jsonl")}],
        methods=[{"name": "eap"}, {"name": "node_patching"}, {"name": "acdc", "threshold": 0.1}],
        ablation="mean",
        shards={"prompts": 2},
        store={"prompt_scores": True},
        evaluate={"edge_fractions": [0.5]},
    )
    (project / "config.yaml").write_text(yaml.safe_dump(config))
    assert (
        main(["run", str(project / "config.yaml"), "--run-dir", str(project / "run"), "--local", "--quiet"])
        == 0
    )
    return project / "run"


def spoil(run: Path, rng: random.Random) -> Path:
    """Garbles one file of a run."""
    path = rng.choice(sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size > 1))
    if path.suffix == ".json" and rng.random() < 0.5:
        garble.write_json(path, garble.edited(json.loads(path.read_text()), rng))
    elif rng.random() < 0.1:
        path.unlink()
    else:
        path.write_bytes(garble.garbled(path.read_bytes(), rng))
    return path


def results(run: Path) -> dict[str, str]:
    """What a run has found, by file: the digest of the table, without the time that it took, or of the bytes."""
    folders = ("scores", "node_scores", "prompt_metrics", "statistics", "aggregate")
    found = {name: one for name, one in content(run).items() if name.startswith(folders)}
    for name in found:
        if name.endswith(".parquet"):
            with contextlib.suppress(pa.ArrowException, OSError):  # damaged
                found[name] = repr(pq.read_table(run / name, partitioning=None).to_pylist())
        elif name.endswith(".safetensors"):
            with contextlib.suppress(SafetensorError):
                found[name] = repr({key: one.tobytes() for key, one in sorted(load_file(run / name).items())})
    return found


def complaint(words: list[str], code: int, out: str, err: str) -> str | None:
    """What is wrong with how a command met a run, or None."""
    if "Traceback" in out + err or "CIRCUITS_DEBUG" in err:
        return "a traceback, or a bug of ours"
    if code not in (0, 1, 2, 3):
        return f"exit code {code}"
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if code in (1, 2) and len(errors) != 1 and words[0] != "verify":
        return "not one line"
    return "a line without an end" if any(len(line) > 1500 for line in errors) else None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 30))]
)
def test_a_file_of_a_run_that_went_wrong_costs_a_line_and_no_more(finished, seed, tmp_path, capsys):
    found, mended = [], 0
    for number in range(10):
        rng = random.Random(f"run {seed} {number}")
        run = Path(shutil.copytree(finished, tmp_path / str(number)))
        spoilt = str(spoil(run, rng).relative_to(run))
        codes = []
        for words in COMMANDS:
            capsys.readouterr()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    codes.append(main([words[0], str(run), *words[1:]]))
                except BaseException as error:  # noqa: BLE001 - a panic of Rust is no Exception
                    found.append((number, spoilt, words[0], f"{type(error).__name__}: {error}"[:300]))
                    break
            out, err = capsys.readouterr()
            if problem := complaint(words, codes[-1], out, err):
                found.append((number, spoilt, words[0], problem, codes[-1], out[-300:], err[-900:]))
        before, after = results(finished), results(run)
        lost = [name for name, one in before.items() if after.get(name) != one and name != spoilt]
        if lost and not codes[-1]:
            found.append((number, spoilt, "lost", lost))
        if not any(codes[3:]):  # it went on, and all is well
            mended += 1
            if before.get(spoilt) != after.get(spoilt):
                found.append((number, spoilt, "has other results"))
        shutil.rmtree(run)
    print(f"{seed}: 10 runs, {mended} mended, {len(found)} badly")
    for one in found:
        print("  ", one)
    assert found == []
    assert mended >= 5
