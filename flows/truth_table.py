"""`python -m flows.truth_table FOLDER...`: how well methods and rules find circuits that are known, as one table.

    python -m flows.truth_table FOLDER...     the planted model of the package, and models that lie in these folders

A folder holds a model, `prompts.jsonl` and `circuit.json`, whose `single_edge_patch_max_effect_on_output` has the edges
that matter on these prompts and whose `effective_edges` those of the program that the model was compiled from; where
prompts never change what an edge carries, the two differ. Methods see the first half of the prompts, the second judges
circuits. Knows models, truth and where the table lies. Does not know how anything is scored.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool

from flows.reference import rounded, write_table
from pipeline import Circuit, evaluate, load_model, read_pairs
from pipeline.core.documents import parse_json
from pipeline.core.scores import EdgeScores
from pipeline.evaluation.auroc import area
from pipeline.methods import Acdc, Eap, EapIg, EdgePatching, Method
from pipeline.models.toy import known_circuit
from pipeline.tasks import Induction

if TYPE_CHECKING:
    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel

TABLE = Path("results/reference/truth.md")
FACTS = TABLE.with_suffix(".json")
RULES = ("absolute", "signed", "greedy", "positive_half")
METHODS: tuple[Method, ...] = (Eap(), EapIg(steps=5), Acdc(threshold=1e-3), EdgePatching())
PROMPTS = 128  # at most, half of them held out
PLANTED = "toy:planted"
DIGITS = 3
WORDS = (
    "Written by `python -m flows.truth_table FOLDER...`: the planted model of the package, and programs that "
    "tracr has compiled to stock models. True are the edges that matter on the prompts. Precision and recall are "
    "of the kept set, or of as many of the strongest edges as are true; beside them the AUROC against all edges "
    "of the program, some of which the prompts never change. Faithfulness is that of as many edges as are true, "
    "by rule, on prompts that no method saw. Gradients of attention that is nearly hard are zero or huge: eap and "
    "eap_ig miss an edge of `hist`."
)


@dataclass(frozen=True, eq=False)
class Known:
    """A model whose circuit is known: the edges that matter on its prompts, and those of its program where it has
    one."""

    name: str
    model: "PatchableModel"
    found_on: "Batch"
    held_out: "Batch"
    truth: Bool[np.ndarray, " edge"]
    program: Bool[np.ndarray, " edge"]


def known_model(place: str) -> Known:
    """The planted model, or the one in a folder; float64, so that nothing is a matter of rounding."""
    model = load_model(place, dtype="float64")
    attention: Literal["causal", "bidirectional"] = "causal"
    if place == PLANTED:
        pairs = Induction(count=PROMPTS).pairs(model.tokenizer, 0)
        truth = program = model.graph.mask(known_circuit(PLANTED))
    else:
        said: Any = parse_json((Path(place) / "circuit.json").read_text(encoding="utf-8"))
        pairs = read_pairs(str(Path(place) / "prompts.jsonl"))[:PROMPTS]
        attention = "causal" if said["causal"] else "bidirectional"
        truth = model.graph.mask(list(said["single_edge_patch_max_effect_on_output"]))
        program = model.graph.mask(list(said["effective_edges"]))
    half = len(pairs) // 2
    found_on, held_out = (model.batch(part, attention=attention) for part in (pairs[:half], pairs[half:]))
    return Known(place.rpartition("/")[2], model, found_on, held_out, truth, program)


def rows_of(known: Known) -> Iterator[dict[str, Any]]:
    """A row per method."""
    for method in METHODS:
        begun = time.process_time()
        scores = method.score(known.model, [known.found_on], metric="logit_diff")
        spent = time.process_time() - begun
        assert isinstance(scores, EdgeScores)
        kept = scores.kept
        if kept is None:
            kept = Circuit.from_scores(scores, top=int(known.truth.sum())).mask
        right = int((kept & known.truth).sum())
        yield {
            "model": known.name,
            "edges": known.model.graph.n_edges,
            "true_edges": int(known.truth.sum()),
            "program_edges": int(known.program.sum()),
            "method": method.name,
            "auroc": area(np.abs(scores.score), known.truth),
            "precision": right / int(kept.sum()) if kept.any() else None,
            "recall": right / int(known.truth.sum()),
            "program_auroc": area(np.abs(scores.score), known.program),
            "program_recall": float((kept & known.program).sum() / known.program.sum()),
            "faithfulness": dict(_faithfulness(known, scores)),
            "cpu_seconds": spent,
        }


def _faithfulness(known: Known, scores: EdgeScores) -> Iterator[tuple[str, float]]:
    """Of circuits of as many edges as matter, by rule, or of what is kept; on prompts that no method saw."""
    for rule in RULES if scores.kept is None else ("kept",):
        top = None if scores.kept is not None else int(known.truth.sum())
        circuit = Circuit.from_scores(scores, top=top, rank="absolute" if rule == "kept" else rule)
        yield rule, float(evaluate(circuit, known.model, [known.held_out])["faithfulness"].item())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        "# Circuits that are known",
        "",
        *wrap(WORDS, 115),
        "",
        "| model | edges | true | method | AUROC | precision | recall | AUROC, program (edges) | faithfulness: "
        + " / ".join(RULES)
        + " | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = [_number(row[key]) for key in ("auroc", "precision", "recall")]
        program = f"{_number(row['program_auroc'])} ({row['program_edges']})"
        faithful = " / ".join(map(_number, row["faithfulness"].values()))
        cells = [row["model"], row["edges"], row["true_edges"], row["method"], *numbers, program, faithful]
        lines.append(f"| {' | '.join(map(str, [*cells, _number(row['cpu_seconds'], 1)]))} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, digits: int = DIGITS) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def main() -> int:
    """Writes the table of the planted model and of the folders that were named."""
    rows = [row for place in (PLANTED, *sys.argv[1:]) for row in rows_of(known_model(place.rstrip("/")))]
    write_table(TABLE, rounded(rows, DIGITS), table(rows))
    print(f"table    {TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
