"""What every task is: a named, seeded or stored list of prompt pairs.

Knows parameters, ids and seeds. Does not know models, shards or runs; a tokenizer comes from the caller.
"""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from string import Formatter
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, field_validator, model_validator

from pipeline.core.entries import Entry
from pipeline.core.errors import PromptError
from pipeline.core.graph import Graph
from pipeline.core.prompts import Bos, PromptPair, Target, span_name_problem
from pipeline.core.ways import Way
from pipeline.models.encoding import encode, encode_all
from pipeline.tasks.chat import in_chat
from pipeline.tasks.sides import Side, drawn

_Item = TypeVar("_Item")
# What is no part of a task's own id.
_NO_NAME = {"name", "as_", "count", "attention", "held_out", "held_out_of", "side"}


class Task(Entry):
    """A behaviour, as pairs of prompts.

    `as` names the task in results; `attention: bidirectional` is for models that see the whole prompt at
    every position (compiled toy models, mostly). `bos: add` puts the tokenizer's token for the beginning of a text
    before prompts where the tokenizer does not (GPT-2's), as EAP-IG and TransformerLens do. `chat: true` makes a prompt
    what a user says, by the tokenizer's template; the answer is then what the model's own turn begins with.
    `held_out_of` names another task: no method sees these prompts, and the circuits of that task are judged by them.

    `target` is what is measured of an answer: its one `token`, as the default has it and checks; `sequence`, the log
    probability of all its tokens, each given those before it; `first_difference`, the first token in which right and
    wrong answers differ, after what they have in common. `read` names a span of the prompts after which the answer is
    read, instead of the end. `filter: correct` leaves prompts out that the model gets wrong, as `accuracy` says; they
    are listed with the reason in the run's folder `filtered`. `answers: shuffled` gives every prompt the answers of
    another one: null data, in which a method finds what prompts alone make it find.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    ways: ClassVar[tuple[Way, ...]] = ()  # in which heads are known to look at such prompts

    name: str
    as_: str | None = Field(default=None, alias="as")
    attention: Literal["causal", "bidirectional"] = "causal"
    bos: Bos = "tokenizer"
    chat: bool = False
    target: Target = "token"
    read: str | None = None
    held_out_of: str | None = None
    filter: Literal["correct"] | None = None
    answers: Literal["own", "shuffled"] = "own"

    paper: ClassVar[str] = ""  # where the behaviour was studied
    measure: ClassVar[str] = "logit_diff"  # the metric used there, as it is called here
    later: ClassVar[frozenset[str]] = frozenset(
        {"bos", "chat", "target", "read", "held_out_of", "filter", "answers"}
    )

    @property
    def id(self) -> str:
        """`as` if given, else the task's own id; unique per run is the config's business."""
        return self.as_ or self.default_id()

    @abstractmethod
    def default_id(self) -> str: ...

    @abstractmethod
    def pairs(self, tokenizer: Any, seed: int) -> list[PromptPair]:
        """The prompt pairs, in order; `seed` is the run's. Raises `PromptError`."""

    def truth(self, graph: Graph, model: str) -> tuple[str, ...] | None:  # noqa: ARG002 - few have one
        """The edges of the circuit that is known to do this, by name, or its nodes where no more is known; None unless
        model and graph are those in which it was found: `model` is the config's name of it, a folder or a name on the
        hub (`published.Origin`)."""
        return None

    def portions(
        self, tokenizer: Any, seed: int, size: int = 1024
    ) -> Iterator[tuple[list[PromptPair], float]]:
        """The same, `size` at a time, and with each portion the share of all that has come."""
        pairs = self.pairs(tokenizer, seed)
        for start in range(0, len(pairs), size):
            yield pairs[start : start + size], min(1.0, (start + size) / len(pairs))

    def told(self, tokenizer: Any, seed: int) -> Iterator[tuple[list[PromptPair], float]]:
        """The portions as a model is given them: in its chat template, where the task asks for it."""
        told = self.target != "token" or self.read is not None
        portions = self.portions(tokenizer, seed)
        if self.answers == "shuffled":
            portions = iter([(shuffled(self.pairs(tokenizer, seed), seed, self.name), 1.0)])
        for pairs, share in portions:
            if told:
                pairs = [replace(pair, target=self.target, read=self.read) for pair in pairs]  # noqa: PLW2901
            yield [in_chat(pair, tokenizer) for pair in pairs] if self.chat else pairs, share

    @field_validator("read")
    @classmethod
    def _is_a_span(cls, value: str | None) -> str | None:
        if value is not None and (problem := span_name_problem(value)):
            raise ValueError(f"{value!r} {problem}; give the name of a span")
        return value

    @model_validator(mode="after")
    def _is_read_in_order(self) -> "Task":
        if self.target == "sequence" and self.attention == "bidirectional":
            raise ValueError(
                "target: sequence reads an answer token after token, which attention: bidirectional would see; set "
                "target: first_difference"
            )
        return self


class GeneratedTask(Task):
    """A task whose prompts are written from templates and word lists.

    Every choice in prompt i is drawn from (run seed, task's seed, name, i): a larger `count` only appends.
    """

    count: int = Field(default=100, ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    held_out: int = Field(default=0, ge=0, le=1_000_000, description="further prompts, to judge circuits")
    side: Side = "all"

    closed: ClassVar[bool] = False  # answers are of a few words that every part of the prompts needs
    later: ClassVar[frozenset[str]] = frozenset({"held_out", "side"})

    def apart(self) -> "tuple[GeneratedTask, ...]":
        """The task and, where it holds prompts out, a task of these: no word that decides an answer is in both."""
        if not self.held_out:
            return (self,)
        shown = self.model_copy(update={"as_": self.id, "held_out": 0, "side": "discovery"})
        judges = {"as_": f"{self.id}-held-out", "count": self.held_out, "held_out": 0, "side": "held_out"}
        return shown, self.model_copy(update={**judges, "held_out_of": self.id})

    def drawn(self, seed: int, index: int, write: Callable[[np.random.Generator], PromptPair]) -> PromptPair:
        """Prompt `index`, on the task's side."""
        return drawn(write, self.rng(seed, index), self.side, closed=self.closed, name=self.name)

    def default_id(self) -> str:
        """The name and every parameter that differs from its default, but for `count` and `attention`."""
        parts = [self.name]
        for field, info in type(self).model_fields.items():
            value = getattr(self, field)
            if field not in _NO_NAME and value != info.default:
                parts.append(field if field in {"bos", "chat"} else slug(str(value)))
        return "-".join(parts)

    def rng(self, seed: int, index: int) -> np.random.Generator:
        """The generator of prompt `index`, the same on every machine and for every `count`."""
        key = f"{seed}/{self.seed}/{self.name}/{index}".encode()
        return np.random.default_rng(np.frombuffer(hashlib.sha256(key).digest(), dtype=np.uint32))

    def need(self, tokenizer: Any) -> None:
        """Raises `PromptError` when there is no tokenizer to write text for."""
        if tokenizer is None:
            raise PromptError(
                f"task {self.name}: the model has no tokenizer, and this task writes text; "
                "add its files to the model folder, or give token ids with {name: file, path: ...}"
            )

    def short_of(self, found: int, tried: int, needed: int, what: str, mend: str) -> PromptError:
        """The error for a tokenizer that splits too many words; nothing is raised here."""
        return PromptError(
            f"task {self.name}: this tokenizer writes {found} of {tried} {what} as one token in context and "
            f"{needed} are needed; {mend} or give your own pairs with {{name: file, path: ...}}"
        )


def shuffled(pairs: Sequence[PromptPair], seed: int, name: str) -> list[PromptPair]:
    """The pairs, each with the answers of another one, in one random circle. PromptError for fewer than two."""
    if len(pairs) < 2:
        raise PromptError(
            f"task {name}: answers: shuffled needs two prompts or more, to take them from another one"
        )
    key = hashlib.sha256(f"{seed}/{name}/answers".encode()).digest()
    order = np.random.default_rng(np.frombuffer(key, dtype=np.uint32)).permutation(len(pairs))
    given = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [
        replace(
            pair,
            **{
                field: getattr(pairs[given[i]], field)
                for field in ("answers", "wrong_answers", "corrupted_answers")
            },
        )
        for i, pair in enumerate(pairs)
    ]


def written(frame: str, words: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """A template with its gaps filled, and [first, end) in characters of each gap. No gap may occur twice."""
    text, places = "", {}
    for literal, gap, _, _ in Formatter().parse(frame):
        text += literal
        if gap is not None:
            places[gap] = (len(text), len(text) + len(words[gap]))
            text += words[gap]
    return text, places


def next_word(text: str, start: int) -> tuple[int, int]:
    """[first, end) in characters of the first word at or after `start`; there must be one."""
    found = re.compile(r"\w+").search(text, start)
    if found is None:
        raise ValueError(f"no word after character {start} of {text!r}")
    return found.span()


def nth_word(text: str, n: int) -> tuple[int, int]:
    """[first, end) in characters of word `n`, from 0, of words with one space between them."""
    words = text.split(" ")
    start = sum(len(word) + 1 for word in words[:n])
    return start, start + len(words[n])


def last_word(text: str) -> tuple[int, int]:
    """[first, end) in characters of what follows the last space."""
    return text.rindex(" ") + 1, len(text)


def listed(text: str) -> tuple[str, ...]:
    """The words of a text with white space between them."""
    return tuple(text.split())


def slug(text: str) -> str:
    """`text` in the characters that an id may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-")[:80] or "task"


def pick(rng: np.random.Generator, items: Sequence[_Item], n: int) -> list[_Item]:
    """`n` different items, in random order."""
    return [items[i] for i in rng.choice(len(items), size=n, replace=False)]


def is_known(tokenizer: Any, text: str) -> bool:
    """Whether the tokenizer writes `text` without its unknown token. What it puts before the text does not count: in
    GPT-2's, the token for the beginning and the unknown token are one."""
    return getattr(tokenizer, "unk_token_id", None) not in encode_all(tokenizer, [text])[0].own


def one_token_words(
    tokenizer: Any, words: Sequence[str], *, before: str, after: Sequence[str] = (" and", ",", " gave")
) -> dict[str, int]:
    """The words that are one token between `before` and each of `after`, with that token.

    A word counts only if the prefix is unchanged by it, the token is not the unknown token, and no other word
    of the list has it: prompts made by exchanging such words have equal lengths and different tokens.
    """
    prefix = encode(tokenizer, before)
    unknown = getattr(tokenizer, "unk_token_id", None)
    ends = ("", *after)
    texts = [f"{before} {word}{end}" for word in words for end in ends]
    read = iter(encode_all(tokenizer, texts))
    found: dict[str, int] = {}
    for word in words:
        ids, *followed = (next(read).ids for _ in ends)
        alone = len(ids) == len(prefix) + 1 and ids[:-1] == prefix
        if not alone or ids[-1] in (unknown, *found.values()):
            continue
        if all(others[: len(ids)] == ids for others in followed):
            found[word] = ids[-1]
    return found
