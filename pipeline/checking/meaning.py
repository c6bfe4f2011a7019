"""What the facts about a task mean, in words, each with the mend.

Knows facts. Does not know models or prompts.
"""

from collections.abc import Mapping
from typing import Any

# The share of prompts that a model which has a behaviour gets right, and its interval's lower end.
HAS, SURE = 0.9, 0.8
FEW = 30
MUCH = 0.2  # of padding, of duplicates, of prompts that the corruption leaves as they are
STILL = 0.5  # of the corrupted prompts of which the model still says the clean answer first


def verdict(facts: Mapping[str, Any]) -> tuple[str, list[str]]:
    """A word (`has`, `prefers`, `lacks`, `unused`) and the sentences that say why and what to do."""
    if not facts["prompts"]:
        why = facts["refused"][0]["first"] if facts["refused"] else "there are none"
        return "unused", [f"no prompt can be used: {why}"]
    word, words = _behaviour(facts)
    return word, words + _prompts(facts)


def _behaviour(facts: Mapping[str, Any]) -> tuple[str, list[str]]:
    greedy, accuracy = facts["greedy"], facts["accuracy"]
    said = f"it says the answer first in {_within(facts, 'greedy')}"
    instead = ", ".join(f"{one['text']!r} ({one['prompts']:,})" for one in facts["instead"])
    otherwise = f"; otherwise {instead}" if instead else ""
    if greedy >= HAS and facts["greedy_low"] >= SURE and (accuracy is None or accuracy >= HAS):
        word, words = "has", f"the model has this behaviour: {said}"
    elif greedy >= HAS and facts["greedy_low"] < SURE:
        word, words = "unsure", f"the model may have this behaviour: {said}; take more prompts"
    elif accuracy is not None and accuracy >= HAS:
        word = "prefers"
        words = (
            "the model does not have this behaviour: it prefers the answer to the wrong one in "
            f"{_within(facts, 'accuracy')}, but {said}{otherwise}; a circuit found here is one of that preference: "
            "write prompts that leave nothing else to say, or choose another model"
        )
    else:
        word = "lacks"
        above = "" if accuracy is None else f", and above the wrong one in {_within(facts, 'accuracy')}"
        words = (
            f"the model does not have this behaviour: {said}{above}{otherwise}; choose other prompts or another model, "
            "for no circuit does what the model does not"
        )
    if facts["still_right"] > STILL and facts["unchanged"] < 1 and not _moves(facts["metrics"]):
        nothing = (
            f"the corruption takes nothing away: the answer is still first in {facts['still_right']:.0%} of the "
            "corrupted prompts, and no metric falls by its spread; corrupt what decides the answer"
        )
        return word, [words, nothing]
    return word, [words]


def _moves(metrics: Mapping[str, Any]) -> bool:
    """Whether some metric is, on corrupted prompts, further from the clean ones than those are from each other."""
    return any(
        abs(one["clean"]["mean"] - one["corrupted"]["mean"]) > one["clean"]["std"] + 1e-6
        for one in metrics.values()
    )


def _prompts(facts: Mapping[str, Any]) -> list[str]:
    words = []
    n, unchanged = facts["prompts"], facts["unchanged"]
    if facts["refused"]:
        lost = sum(row["prompts"] for row in facts["refused"])
        words.append(
            f"{lost:,} of {lost + n:,} prompts cannot be used, the first: {facts['refused'][0]['first']}"
        )
    if unchanged == 1:
        words.append(
            "clean and corrupted are the same tokens in every prompt: every score would be 0; change what matters"
        )
    elif unchanged:
        words.append(f"the corruption changes nothing in {unchanged:.0%} of the prompts; leave these out")
    if n < FEW:
        words.append(f"{n:,} prompts are few: no interval is narrow; take {FEW} or more")
    if facts["duplicates"] > MUCH * n:
        words.append(
            f"{facts['duplicates']:,} of {n:,} prompts are others again, and no new evidence; ask for fewer, or for "
            "other words"
        )
    if (facts["padding"] or 0) > MUCH:
        words.append(
            f"{facts['padding']:.0%} of the positions in batches are padding; take larger shards, or smaller batches "
            "(cluster.batch_size)"
        )
    return words


def _within(facts: Mapping[str, Any], name: str) -> str:
    return f"{facts[name]:.0%} ({facts[f'{name}_low']:.0%} to {facts[f'{name}_high']:.0%})"
