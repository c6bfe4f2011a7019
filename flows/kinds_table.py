"""`python -m flows.kinds_table`: are prompts of two behaviours told apart by their scores alone, as one table.

    python -m flows.kinds_table [--runs FOLDER]     the files of mixed prompts, every behaviour and every pair

Knows which prompts are drawn, where files and table lie, and one run of all behaviours that the model has, gone on
with like any other. Does not know how kinds are told apart (`pipeline.evaluation.clusters`), which is not told what is
mixed.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from textwrap import wrap
from typing import Any

import numpy as np
from jaxtyping import Float

from flows import behaviours
from flows.methods_table import known
from flows.real import FOLDER, NOTE
from flows.reference import rounded, write_table
from pipeline import discover
from pipeline.config import RunConfig
from pipeline.core.errors import CircuitsError
from pipeline.evaluation import Clusters
from pipeline.models.load import load_tokenizer, resolve_model

TABLE = behaviours.TABLE.with_name("kinds.md")
FACTS = TABLE.with_suffix(".json")
METHOD = "eap_ig"
COUNT, SEED, STEPS = 24, 1, 5
FILES = {
    "mixed.jsonl": ("subject_verb", "gender_pronoun", "acronym"),
    "relations.jsonl": ("capital", "country_language"),
}
COLUMNS = ("behaviours", "kinds", "misplaced", "standard deviations apart", "p of one kind")
WORDS = (
    f"Written by `python -m flows.kinds_table`. {NOTE[0].upper()}{NOTE[1:]}. {COUNT} prompts of each behaviour (run "
    f"seed {SEED}), scored by `{METHOD}` with {STEPS} steps, alone and mixed with those of others, are parted as the "
    "evaluation `clusters` does by itself, which knows of no behaviour. Misplaced are prompts of a kind that are not "
    "of its most frequent behaviour; where the number of kinds is not known (–) none are. The last two columns are of "
    "the first cut."
)


def config_of(names: Sequence[str], runs: str) -> RunConfig:
    """The config of the run that scores the prompts of these behaviours."""
    of = behaviours.CANDIDATES | behaviours.MORE
    return RunConfig.from_mapping(
        {
            "name": "kinds",
            "model": {"name": str(FOLDER)},
            "tasks": [{**of.get(name, {"name": name}), "count": COUNT, "as": name} for name in names],
            "methods": [{"name": METHOD, "steps": STEPS, "as": METHOD}],
            "shards": {"prompts": COUNT},
            "seed": SEED,
            "store": {"prompt_scores": True},
            "evaluate": {"edge_fractions": [0.01]},
            "cluster": {"batch_size": COUNT},
            "output": runs,
        }
    )


def lines_of(config: RunConfig, names: Sequence[str], tokenizer: Any) -> list[str]:
    """The prompts of these behaviours as lines of a file, each with what it is of."""
    return [
        json.dumps(
            {
                "clean": pair.clean,
                "corrupted": pair.corrupted,
                "answers": [*pair.answers],
                "wrong_answers": [*pair.wrong_answers],
                "behaviour": name,
            },
            ensure_ascii=False,
        )
        for name in names
        for pair in config.task_ids[name].pairs(tokenizer, config.seed)
    ]


def told_apart(scores: Mapping[str, Float[np.ndarray, "prompt edge"]]) -> dict[str, Any]:
    """What becomes of prompts of several behaviours that are mixed: how many `kinds` (None: not known), `misplaced`
    prompts of how many, and the first cut's `separation` and `p`."""
    found = Clusters().parted(np.concatenate([*scores.values()]))
    facts: dict[str, Any] = {"behaviours": [*scores], "prompts": sum(map(len, scores.values()))}
    if found is None:
        return facts | dict.fromkeys(("kinds", "misplaced", "separation", "p"))
    behaviour = np.repeat(np.arange(len(scores)), [len(rows) for rows in scores.values()])
    placed = sum(int(np.bincount(behaviour[found.labels == kind]).max()) for kind in range(found.n))
    return facts | {
        "kinds": found.n if found.decided else None,
        "misplaced": facts["prompts"] - placed if found.decided else None,
        "separation": found.first.separation,
        "p": found.first.p,
    }


def is_parted(row: Mapping[str, Any]) -> bool:
    """Whether no prompt is of a kind with prompts of another behaviour."""
    return (row["kinds"] or 0) > 1 and row["misplaced"] == 0


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown."""
    pairs = [row for row in rows if len(row["behaviours"]) == 2]
    parted = [row for row in pairs if is_parted(row)]
    counted = (
        f"Of {len(pairs)} pairs of behaviours {len(parted)} are parted without a prompt misplaced, "
        f"{sum(row['kinds'] == 2 for row in parted)} of them into just two kinds; "
        f"{sum(row['kinds'] == 1 for row in pairs)} are one kind, and of "
        f"{sum(row['kinds'] is None for row in pairs)} it is not known."
    )
    lines = [
        "# Two behaviours or one kind of prompts",
        "",
        *wrap(WORDS, 115),
        "",
        *wrap(counted, 115),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in rows:
        misplaced = "–" if row["misplaced"] is None else f"{row['misplaced']} of {row['prompts']}"
        cells = [", ".join(row["behaviours"]), row["kinds"] or "–", misplaced]
        cells += ["–" if row[name] is None else f"{row[name]:.3g}" for name in ("separation", "p")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Writes the files of prompts, makes the run and writes the table; 0 where all could be made."""
    parser = argparse.ArgumentParser(prog="python -m flows.kinds_table")
    parser.add_argument("--runs", default="results", metavar="FOLDER")
    asked = parser.parse_args()
    try:
        names = known()
        config = config_of(names, asked.runs)
        tokenizer = load_tokenizer(resolve_model(config.model.name))
        for file, of in FILES.items():
            lines = lines_of(config, of, tokenizer)
            TABLE.with_name(file).write_text("\n".join(lines) + "\n", encoding="utf-8")
        run = discover(config, local=True)
        scores = {name: run.prompt_scores(METHOD, name).to_numpy() for name in names}
    except CircuitsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    alone, mixed = [(name,) for name in names], [of for of in FILES.values() if len(of) > 2]
    asked_for = [*alone, *mixed, *combinations(names, 2)]
    rows = rounded([told_apart({name: scores[name] for name in of}) for of in asked_for])
    write_table(TABLE, rows, table(rows))
    print(f"table    {TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
