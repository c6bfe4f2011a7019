"""What `circuits check` says, and the part of it that `plan` shows: facts for `--json`, and the same for people.

Knows what is worth saying. Does not know how it was found out; loads without torch, Ray and Prefect.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from flows.writing import count, number, say, share, show, table_of, wrapped
from pipeline.checking.facts import prompt_facts
from pipeline.models.load import load_tokenizer
from pipeline.schedule import Plan

Facts = dict[str, Any]
LOOKED_AT = 1000  # prompts of a task that a plan looks at, of however many
_MARKS = {"has": "yes", "prefers": "prefers it", "lacks": "no", "unsure": "perhaps", "unused": "no prompts"}


def planned_facts(plan: Plan) -> Facts:
    """By task, what the tokens of the first prompts say by themselves; reads no weights."""
    tokenizer = load_tokenizer(plan.model)
    cluster = plan.config.cluster
    return {
        id_: prompt_facts(
            islice(tokens, LOOKED_AT),
            tokenizer,
            per_shard=tokens.per_shard,
            batch_size=cluster.batch_size,
            sizes=map(len, map(tokens.of_shard, range(tokens.n_shards))),
        )
        for id_, tokens in plan.tokens.items()
    }


def print_planned(tasks: Mapping[str, Facts]) -> None:
    """A row per task, and its first pair in tokens."""
    table = table_of(
        "task", "#looked at", "#tokens", "#padding", "#repeated", "#unchanged", "tokens that differ, in"
    )
    for id_, facts in tasks.items():
        table.add_row(id_, *_cells(facts), _where(facts))
    show(table)
    for id_, facts in tasks.items():
        _print_first(id_, facts["first"])


def print_check(facts: Facts) -> None:
    """A row per task with what the model does, then what it means; last the prompts themselves."""
    if note := facts["model"]["note"]:
        say(note)
    table = table_of("task", "has it", "#prompts", "#above wrong", "#first", "#first when corrupted")
    measured = table_of("task", "metric", "#clean", "#spread", "#corrupted", "#spread ")
    for id_, one in facts["tasks"].items():
        cells = [count(one["prompts"]), _interval(one, "accuracy"), _interval(one, "greedy")]
        table.add_row(id_, _MARKS[one["verdict"]], *cells, share(one["still_right"]))
        for metric, values in one["metrics"].items():
            numbers = [values[which][key] for which in ("clean", "corrupted") for key in ("mean", "std")]
            scale = max(abs(values[which]["mean"]) for which in ("clean", "corrupted"))
            measured.add_row(id_, metric, *(number(one, scale) for one in numbers))
    show(table)
    show(measured)
    for id_, one in facts["tasks"].items():
        for words in one["words"]:
            for line in wrapped(f"{id_}: {words}"):
                say(line)
        for row in one["refused"][1:]:
            for line in wrapped(f"{id_}: {row['prompts']:,} prompts: {row['first']}"):
                say(line)
    print_planned({id_: one for id_, one in facts["tasks"].items() if one["prompts"]})
    say(
        "above wrong: the answer is more likely than every wrong one; first: than every token; 95 % intervals (Wilson)"
    )


def _cells(facts: Facts) -> list[str]:
    low, median, high = facts["tokens"] or ("-", "-", "-")
    tokens = str(low) if low == high else f"{low}-{high} ({median})"
    return [
        count(facts["prompts"]),
        tokens,
        share(facts["padding"]),
        count(facts["duplicates"]),
        share(facts["unchanged"]),
    ]


def _where(facts: Facts) -> str:
    """Where clean and corrupted differ: in which spans, or how far from the end."""
    differ = facts["differ"]
    spans = {name: value for name, value in differ["spans"].items() if value}
    if spans:
        return ", ".join(name if value == 1 else f"{name} ({value:.0%})" for name, value in spans.items())
    ends = sorted(differ["from_end"].items(), key=lambda pair: -pair[1])[:3]
    return ", ".join(f"{end} before the end ({value:.0%})" for end, value in ends) or "none"


def _interval(facts: Facts, name: str) -> str:
    if facts.get(name) is None:
        return "-"
    return f"{facts[name]:.0%} {facts[f'{name}_low']:.0%}-{facts[f'{name}_high']:.0%}"


def _print_first(id_: str, first: Facts | None) -> None:
    """The pair as the model reads it: tokens apart, those that differ in brackets, the answers as they decode."""
    if first is None:
        return
    differs = set(first["differs_at"])
    for which in ("clean", "corrupted"):
        pieces = [f"[{text}]" if i in differs else text for i, text in enumerate(first[which])]
        answers = ""
        if which == "clean":
            wrong = f", not {_quoted(first['wrong_answers'])}" if first["wrong_answers"] else ""
            answers = f" -> {_quoted(first['answers'])}{wrong}"
        for line in wrapped(f"{id_} {which}: {'|'.join(pieces)}{answers}"):
            say(line)


def _quoted(texts: list[str]) -> str:
    shown = ", ".join(map(repr, texts[:5]))
    return shown + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
