"""`make demo`: finds the circuit that is planted in a bundled model, and says how it compares with the truth.

Knows the demo's config and the planted circuit. Everything goes the way that real runs go: Prefect, Ray with two
workers, Parquet files, the report. With a path, `python -m flows.demo circuit.svg` draws the circuit there as well.
"""

import sys
from pathlib import Path

from flows import cli
from pipeline.config import RunConfig
from pipeline.core.circuit import Circuit
from pipeline.models.toy import known_circuit
from pipeline.schedule import make_plan
from pipeline.store.run.opened import Run, open_run

CONFIG = Path(__file__).parent / "configs" / "demo.yaml"


def main() -> int:
    """Runs the demo and prints what it found; the exit code of `circuits run`."""
    config = RunConfig.load(CONFIG)
    print(
        "A small GPT-2 holds a circuit that was planted by hand: after `A B ... A` it predicts `B`.",
        flush=True,
    )
    print(
        f"$ circuits run {CONFIG.relative_to(Path.cwd()) if CONFIG.is_relative_to(Path.cwd()) else CONFIG}",
        flush=True,
    )
    code = cli.main(["run", str(CONFIG)])
    if code == cli.OK:
        print()
        run = open_run(make_plan(config).path)
        compare(run)
        if sys.argv[1:]:
            draw(run, Path(sys.argv[1]))
    return code


def compare(run: Run) -> None:
    """The known circuit's edges, which of them every method found, and how faithful what it found is."""
    known = known_circuit(run.config["model"]["name"])
    found = {method: _circuit(run, method, len(known)) for method in run.methods}
    names = {method: set(circuit.edge_names) for method, circuit in found.items()}
    width = max(len(edge) for edge in known)
    print(f"{'planted edge':{width}}  {'  '.join(found)}")
    for edge in known:
        marks = ("found" if edge in names[method] else "-" for method in found)
        print(
            f"{edge:{width}}  " + "  ".join(f"{mark:{len(m)}}" for m, mark in zip(found, marks, strict=True))
        )
    print()
    faithfulness = run.faithfulness()
    for method, circuit in found.items():
        right = len(names[method] & set(known))
        rows = faithfulness[(faithfulness.method == method) & (faithfulness.n_edges >= circuit.n_edges)]
        at = rows.sort_values("n_edges").iloc[0]
        print(
            f"{method}: {right} of {len(known)} planted edges among its {circuit.n_edges}; "
            f"{at.n_edges} of {run.graph.n_edges} edges have a faithfulness of {at.faithfulness:.3f}"
        )
    print()
    print(f"scores   {run.path / 'aggregate'}   (Parquet; load_scores reads them)")
    print(f"circuits {run.path / 'circuits'}")
    print(f"report   {run.path / 'report.html'}")
    print(f"more     circuits show {run.path}")


def draw(run: Run, path: Path) -> None:
    """Writes what edge patching found, as many edges as were planted, as one SVG file."""
    from pipeline.report.figures import circuit_svg, standalone

    n_edges = len(known_circuit(run.config["model"]["name"]))
    frame = run.scores(method="edge_patching")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(standalone(circuit_svg(_circuit(run, "edge_patching", n_edges), frame)), encoding="utf-8")
    print(f"picture  {path}")


def _circuit(run: Run, method: str, n_edges: int) -> Circuit:
    """What a method that decides has kept; of the others, as many edges as were planted."""
    scores = run.edge_scores(method)
    return Circuit.from_scores(scores, top=None if scores.kept is not None else n_edges)


if __name__ == "__main__":
    sys.exit(main())
