"""`make behaviours`: which behaviours of the package the language model of `make real` has, as one table.

    python -m flows.behaviours [NAME...]     all, or those named; the rows of the others stay as they are
    python -m flows.behaviours --choose      how settings that were chosen compare with others, on prompts of their own

Knows the list of tasks and where the table lies. Whether the model has one is what `circuits check` says of it. The
prompts are drawn with another seed than the default, with which the generators' words and sentences were chosen.
"""

import json
import sys
from pathlib import Path
from typing import Any

from flows.real import FOLDER, NOTE
from flows.reference import rounded, write_table
from pipeline.checking import tried
from pipeline.config import RunConfig
from pipeline.core.errors import CircuitsError
from pipeline.tasks import TASKS

TABLE = Path("results/reference/smollm2/behaviours.md")
FACTS = TABLE.with_suffix(".json")
COUNT, SEED = 200, 1
SAID = {
    "has": "has it",
    "prefers": "prefers the answer",
    "lacks": "does not have it",
    "unsure": "too few prompts",
}


# Where settings were tried (`python -m flows.behaviours --choose`): other prompts than those that SEED reports.
CHOSEN_ON = 2
CANDIDATES: dict[str, dict[str, Any]] = {
    f"induction-{length}-{repeated}": {"name": "induction", "length": length, "repeated": repeated}
    for length, repeated in ((10, 1), (20, 2), (20, 4), (20, 8))
}

# Beside every generated task as it is by itself: the same questions made easier or harder.
MORE: dict[str, dict[str, Any]] = {
    "induction-20-8": CANDIDATES[
        "induction-20-8"
    ],  # of the candidates the one said first most often on CHOSEN_ON
    "capital-0": {"name": "capital", "shots": 0},
    "subject_verb-opposite": {"name": "subject_verb", "attractor": "opposite"},
}


def config_of(names: list[str], seed: int = SEED) -> RunConfig:
    """The config that tries the behaviours of these names, on the prompts of a seed."""
    known = CANDIDATES | MORE
    asked = known | {name: {"name": name} for name in names if name not in known}
    return RunConfig.from_mapping(
        {
            "name": "behaviours",
            "model": {"name": str(FOLDER)},
            "tasks": [asked[name] | {"count": COUNT, "seed": seed, "as": name} for name in names],
            "methods": ["eap"],
            "cluster": {"batch_size": 20},
        }
    )


def known() -> list[str]:
    """The names of the tasks that write prompts themselves, and of variants."""
    return [*(cls.model_fields["name"].default for cls in TASKS if "count" in cls.model_fields), *MORE]


def table(tasks: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# What SmolLM2-135M-Instruct does",
        "",
        f"Written by `make behaviours`. {NOTE[0].upper()}{NOTE[1:]}.",
        f"{COUNT} prompts of each behaviour (distinct: those that are no other's again), task seed {SEED}; 95 %",
        "intervals (Wilson). *Above wrong*: the answer is more likely than all wrong ones; *first*: than every token.",
        "The model has what it says first in 90 % of the prompts. Logit difference: mean and spread over prompts.",
        "",
        "| behaviour | prompts | distinct | above wrong | first | logit difference | corrupted | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(tasks, key=lambda name: -(tasks[name]["greedy"] or 0)):
        one = tasks[name]
        diff = one["metrics"].get("logit_diff")
        numbers = ["–", "–"]
        if diff:
            numbers = [f"{diff[w]['mean']:+.2f} ± {diff[w]['std']:.2f}" for w in ("clean", "corrupted")]
        distinct = one["prompts"] - one["duplicates"]
        cells = [name, str(one["prompts"]), str(distinct), _share(one, "accuracy"), _share(one, "greedy")]
        lines.append(f"| {' | '.join([*cells, *numbers, SAID.get(one['verdict'], one['verdict'])])} |")
    has = [name for name, one in tasks.items() if one["verdict"] == "has"]
    lines += ["", f"It has {len(has)} of {len(tasks)}."]
    return "\n".join(lines) + "\n"


def _share(one: dict[str, Any], name: str) -> str:
    if one[name] is None:
        return "–"
    return f"{one[name]:.3f} [{one[f'{name}_low']:.3f}, {one[f'{name}_high']:.3f}]"


def main() -> int:
    """Tries the behaviours and writes the table, anew after each; 0 where all could be tried."""
    if sys.argv[1:] == ["--choose"]:
        for name, facts in tried(config_of([*CANDIDATES], CHOSEN_ON), None):
            print(f"{name}: first in {facts['greedy']:.3f} on seed {CHOSEN_ON}", flush=True)
        return 0
    names = sys.argv[1:] or known()
    tasks = json.loads(FACTS.read_text(encoding="utf-8")) if FACTS.is_file() and sys.argv[1:] else {}
    try:
        for name, facts in tried(config_of(names), None):
            tasks[name] = rounded(facts)
            print(f"{name}: {'; '.join(facts['words'])}", flush=True)
            in_order = {one: tasks[one] for one in known() if one in tasks}
            write_table(TABLE, in_order, table(in_order))
    except CircuitsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"table    {TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
