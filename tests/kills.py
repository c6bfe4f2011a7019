"""Kills -9 at random file operations: whatever is gone on with ends in the bytes of a run that nothing happened to.

A run, its extension, another evaluation of it, a compaction and a clearing up are killed, and started again.

Knows forks, operations (`tests.fileops`) and which files are results. Does not know the code that writes them. Every
command is a process of its own, forked from one that has imported everything and done nothing, and kills itself just
before its n-th operation, n drawn from those that the undisturbed command does.

    python -m tests.kills KILLS SEED
"""

import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from flows.cli import main
from pipeline.store.place.atomic import TEMPORARY
from pipeline.store.run.run_dir import RunDirectory
from pipeline.verify import verify
from tests.fileops import Operation, listening
from tests.runs import content, toy_mapping

AGAIN = 0.3  # share of trials in which what goes on is killed too
RESULTS = (
    "aggregate/",
    "node_aggregate/",
    "circuits/",
    "evaluations",
    "faithfulness",
    "graph",
    "nodes",
    "prompts.",
    "report",
    "_SUC",
)
PLANNED = ("manifest.json", "plan.json", "run.yaml")

FIRST = toy_mapping(
    "results",
    tasks=[{"name": "induction", "count": 4}],
    methods=[
        {"name": "eap"},
        {"name": "node_patching", "ablation": "mean"},
        {"name": "acdc", "threshold": 0.1, "as": "acdc"},
    ],
    shards={"prompts": 2},
    store={"prompt_scores": ["eap"]},
    evaluate={"edge_fractions": [0.5]},
)
EAP_IG = {"name": "eap_ig", "steps": 2, "as": "eap_ig"}
SEARCH = {"name": "worst_set", "searches": 1, "steps": 2, "sample": 1}
CONFIGS = {
    "first": FIRST,
    "more": FIRST
    | {"methods": [EAP_IG, {"name": "ensemble", "of": ["eap", "eap_ig"]}, {"name": "eap"}], "store": {}},
    "other": FIRST | {"evaluate": {"edge_fractions": [0.25], "also": [SEARCH]}},
}


@dataclass(frozen=True)
class Phase:
    """A command, and whether it starts from a complete run."""

    command: tuple[str, ...]
    from_complete: bool = True


PHASES = {
    "run": Phase(("run", "first.yaml", "--run-dir", "run", "--local"), from_complete=False),
    "extend": Phase(("run", "more.yaml", "--extend", "run", "--local")),
    "evaluate": Phase(("run", "other.yaml", "--run-dir", "run", "--local")),
    "compact": Phase(("compact", "run")),
    "gc": Phase(("gc", "run")),
}


# --- one command --------------------------------------------------------------------------------------------


def command(folder: Path, argv: tuple[str, ...], kill_at: int = 0) -> tuple[int, int]:
    """Exit code and number of operations of a command in a process of its own; -9 where that has killed itself."""
    counted = folder / "operations"
    counted.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = _do(folder, argv, kill_at, counted)
        except BaseException:  # noqa: BLE001 - of a process that is no test
            traceback.print_exc()
        os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status, int(counted.read_text()) if counted.exists() else 0


def _do(folder: Path, argv: tuple[str, ...], kill_at: int, counted: Path) -> int:
    done = 0

    def hear(_operation: Operation | None) -> None:
        nonlocal done
        done += 1
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(descriptor: int) -> None:
        hear(None)
        real(descriptor)

    os.chdir(folder)
    with (
        (folder / "said.txt").open("a") as said,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        real, os.fsync = os.fsync, fsync
        with listening(folder / "run", hear):
            code = main(list(argv))
        os.fsync = real
    counted.write_text(str(done))
    return code


def outcome(run: Path) -> dict[str, str]:
    """Results by their bytes, and items by their values: what their footers say of time and place may differ."""
    names = (*RESULTS, *PLANNED)
    files = {
        name: sha for name, sha in content(run).items() if name.startswith(names) and TEMPORARY not in name
    }
    directory = RunDirectory.open(run)
    items = {item.name: directory.check(item, deep=True)["values"] for item in directory.items}
    return files | items


# --- the campaign -------------------------------------------------------------------------------------------


def place_of(base: Path, name: str, phase: Phase, complete: Path) -> Path:
    """A folder with the configs, and the run that the phase starts from."""
    folder = base / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for config, mapping in CONFIGS.items():
        (folder / f"{config}.yaml").write_text(yaml.safe_dump(mapping))
    if phase.from_complete:
        shutil.copytree(complete, folder / "run")
        for left in ("scores/.x.parquet.tmp-1", "_bad-1", "circuits/.y.tmp-2"):
            (folder / "run" / left).write_text("left")
            os.utime(folder / "run" / left, (0, 0))
    return folder


def undisturbed(base: Path) -> tuple[Path, dict[str, tuple[int, dict[str, str]]]]:
    """A complete run; and of every phase how many operations it does, and what comes of it."""
    complete, seen = base / "complete", {}
    for name, phase in PHASES.items():
        folder = place_of(base, f"undisturbed-{name}", phase, complete)
        code, total = command(folder, phase.command)
        assert code == 0, (folder / "said.txt").read_text()
        seen[name] = total, outcome(folder / "run")
        if name == "run":
            shutil.copytree(folder / "run", complete)
    return complete, seen


def trial(folder: Path, phase: Phase, total: int, draw: random.Random) -> int:
    """Kills the command, once or twice, and lets it end; returns how often it was killed."""
    killed = 0
    while killed == 0 or draw.random() < AGAIN:
        code, _ = command(folder, phase.command, kill_at=draw.randint(1, total))
        if code != -signal.SIGKILL:  # what was left to do had fewer operations
            break
        killed += 1
    code, _ = command(folder, phase.command)
    assert code == 0, (folder / "said.txt").read_text()
    return killed


def campaign(base: Path, kills: int, seed: int, say: Callable[[str], None]) -> int:
    """Returns how many trials ended in other bytes."""
    draw = random.Random(seed)
    complete, seen = undisturbed(base)
    say(", ".join(f"{name}: {total} operations" for name, (total, _) in seen.items()))
    done: Counter[str] = Counter()
    wrong = number = 0
    while done.total() < kills:
        name = list(PHASES)[number % len(PHASES)]
        number += 1
        total, expected = seen[name]
        state = draw.getstate()
        folder = place_of(base, "trial", PHASES[name], complete)
        try:
            done[name] += trial(folder, PHASES[name], total, draw)
            found = outcome(folder / "run")
            different = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
            damaged = [one.file for one in verify(folder / "run").damaged]
            assert not different + damaged, f"different: {different}; damaged: {damaged}"
        except Exception as error:  # noqa: BLE001 - told, and gone on with
            wrong += 1
            kept = base / f"wrong-{number}"
            shutil.copytree(folder, kept)
            say(f"trial {number} ({name}): {error}; kept in {kept}, random state {hash(state)}")
    say(f"{done.total()} kills in {number} trials ({dict(done)}), {wrong} with other results")
    return wrong


if __name__ == "__main__":
    import torch

    import pipeline.engine.patchable
    import pipeline.report.html
    import pipeline.schedule.conduct
    import pipeline.workers.execute  # noqa: F401

    torch.set_num_threads(1)
    where = Path(tempfile.mkdtemp(prefix="kills-"))
    failed = campaign(where, int(sys.argv[1]), int(sys.argv[2]), lambda text: print(text, flush=True))
    if not failed:
        shutil.rmtree(where)
    sys.exit(bool(failed))
