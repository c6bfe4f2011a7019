"""Methods that look at all prompts of a task together: one process asks, and whoever holds the prompts answers.

Knows questions, answers and durable steps. Does not know any method, nor whether prompts lie in one process or in many
(`pipeline.workers.together`). Loads without torch.

A collective method says two things. `part` makes some batches ready for its questions, in the process that holds them.
`drive` asks them of all parts, and yields a record whenever it has got further: the record is written before the next
question, and a run that was killed hands all of them back.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from pipeline.core.graph import Graph
from pipeline.core.results import Result
from pipeline.methods.base import Cost, Method
from pipeline.methods.work import Work

if TYPE_CHECKING:
    from pipeline.ablations import Statistics
    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel

Answer = np.ndarray
Record = Mapping[str, Any]  # plain data


@runtime_checkable
class Question(Protocol):
    """What is asked of every part; travels between processes. `per` says how the answers become one.

    `prompt`: the last axis of an answer is the part's prompts; together they are in ascending order of id. `batch`: its
    first axis is the part's batches; together in the order of batches. `None`: no answer, but something to know from
    now on; who replaces a lost part is told all of it again.
    """

    @property
    def per(self) -> Literal["prompt", "batch"] | None: ...


@runtime_checkable
class Part(Protocol):
    """Some batches, made ready for questions."""

    @property
    def batches(self) -> Sequence[Any]: ...
    @property
    def held(self) -> int: ...  # batches whose recorded runs stay in memory
    @property
    def about(self) -> Any: ...  # what the drive must know of the model, as plain values
    @property
    def prompt_ids(self) -> Sequence[int]: ...
    def ask(self, questions: Sequence[Any]) -> list[Answer]: ...


@runtime_checkable
class Workers(Protocol):
    """All parts. Answers depend on the prompts alone, never on who holds which."""

    @property
    def n_prompts(self) -> int: ...
    @property
    def about(self) -> Sequence[Any]: ...  # of every part
    def ask(self, questions: Sequence[Any]) -> list[Answer]: ...


@dataclass(frozen=True)
class Taken:
    """A step that a drive has taken: its number, the record from which it goes on, and where it is, in words. `new`
    steps were not among the past ones."""

    number: int
    record: Record
    new: bool
    text: str


@runtime_checkable
class Drive(Protocol):
    """One run of a collective method, or of several that share their questions."""

    def steps(self, past: Mapping[int, Record]) -> Iterator[Taken]:
        """The steps in turn; those of `past` that follow from the beginning without a gap are taken over."""
        ...

    def results(self) -> dict[str, Result]:
        """By method id; after the last step."""
        ...

    def cost(self, method: str) -> Cost:
        """What it took for that method, in prompts."""
        ...


class Collective(Method):
    """A method that looks at all its prompts together. Subclasses define `part`, `drive` and `cost`."""

    decides: ClassVar[bool] = True

    @property
    def pooled(self) -> bool:
        return True

    @abstractmethod
    def part(self, work: Work, memory: int | None = None) -> Part:
        """The batches made ready; `memory` is what their recorded runs may take, in bytes."""

    @abstractmethod
    def drive(self, together: Mapping[str, Any], graph: Graph, workers: Workers, dtype: str) -> Drive:
        """What asks, for methods that differ in nothing but what they sweep, by id; `self` is one of them."""

    def run(self, work: Work) -> Result:
        """The result for prompts that are all in this process."""
        return self.together(work, {"": self})[""]

    def together(self, work: Work, methods: Mapping[str, Any]) -> dict[str, Result]:
        """`run` of several methods that differ in nothing but what they sweep, by id."""
        workers = LocalWorkers(self.part(work))
        drive = self.drive(
            methods, work.model.graph, workers, str(work.model.hf.dtype).removeprefix("torch.")
        )
        for _ in drive.steps({}):
            pass
        work.model.counters.evaluations += sum(drive.cost(id_).evaluations for id_ in methods)
        return drive.results()

    def score_together(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        methods: Mapping[str, Any],
        *,
        metric: str | None = None,
        ablation: str | None = None,
        statistics: "Statistics | None" = None,
    ) -> dict[str, Result]:
        """`score` of several methods that differ in nothing but what they sweep, by id, from one search."""
        ready = {id_: method.ready(model, metric, ablation) for id_, method in methods.items()}
        first = next(iter(ready.values()))
        work = Work(model, batches, first.metric, first.ablation, statistics)
        return first.together(work, ready)


class LocalWorkers:
    """All prompts in this process."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._order = np.argsort(part.prompt_ids, kind="stable")
        self.n_prompts = len(part.prompt_ids)
        self.about = [part.about]

    def ask(self, questions: Sequence[Any]) -> list[Answer]:
        """One answer per question; of those that want none, one without rows."""
        answers = self._part.ask(questions)
        return [
            answer[..., self._order] if question.per == "prompt" else answer
            for question, answer in zip(questions, answers, strict=True)
        ]


class Redrawn:
    """The workers' prompts drawn with replacement, as many as there are: who is drawn twice answers twice.

    The draw depends on `number` and the number of prompts alone. Every prompt is asked, drawn or not.
    """

    def __init__(self, workers: Workers, number: int) -> None:
        self._workers = workers
        self.n_prompts, self.about = workers.n_prompts, workers.about
        drawn = np.random.default_rng([self.n_prompts, number]).integers(self.n_prompts, size=self.n_prompts)
        self._drawn = np.sort(drawn)

    def ask(self, questions: Sequence[Any]) -> list[Answer]:
        """One answer per question; ValueError where one is not by prompt."""
        if any(question.per == "batch" for question in questions):
            raise ValueError("only answers by prompt can be drawn again")
        answers = self._workers.ask(questions)
        return [
            answer[..., self._drawn] if question.per == "prompt" else answer
            for question, answer in zip(questions, answers, strict=True)
        ]
