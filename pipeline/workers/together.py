"""All prompts of a task, held by many workers in lock-step for a collective method: each has some of the batches.

Knows how batches are shared out, who is asked, how answers become one, and how a lost worker is replaced. Does not know
Ray, nor what is asked (`pipeline.methods.collective`).

Batches do not depend on the number of workers, and every batch is computed by itself, so that the answers are
the same for any number of them.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.machines import free_memory
from pipeline.core.prompts import TokenPair, bucket_by_length
from pipeline.methods.collective import Answer, Collective, Part, Question
from pipeline.workers.jobs import Failure, Pool

if TYPE_CHECKING:
    from pipeline.workers.execute import Replica


@dataclass(frozen=True)
class Enlist:
    """Makes some batches of a task ready and answers with `Enlisted`. `method` is one of those that ask."""

    task: str
    method: str
    batches: tuple[int, ...]  # of all batches of the task, in the order of `batches_of`
    shard: int = 0

    @property
    def name(self) -> str:
        return f"{self.task}/{self.method}"


@dataclass(frozen=True)
class Consult:
    """Questions to the batches that `enlisted` has made ready."""

    enlisted: Enlist
    questions: tuple[Question, ...]

    @property
    def name(self) -> str:
        return self.enlisted.name

    @property
    def task(self) -> str:
        return self.enlisted.task

    @property
    def shard(self) -> int:
        return 0


@dataclass(frozen=True)
class Enlisted:
    """What a worker holds: its prompts, and what its part says of the model."""

    prompt_ids: tuple[int, ...]
    about: Any
    held: int  # batches whose recorded runs stay in memory
    device: str


# --- in a worker ------------------------------------------------------------------------------------------


class Parts:
    """What a worker has at hand for a collective method: one part of the prompts, until another is enlisted."""

    def __init__(self) -> None:
        self._part: tuple[Enlist, Part] | None = None

    def __call__(self, job: Enlist | Consult, replica: "Replica") -> Any:
        if isinstance(job, Enlist):
            return self._enlist(job, replica)
        if self._part is None or self._part[0] != job.enlisted:
            raise RuntimeError(f"{job.name}: this worker was not enlisted for it")
        return self._part[1].ask(job.questions)

    def _enlist(self, job: Enlist, replica: "Replica") -> Enlisted:
        self._part = None  # let go of the old one before recording anew
        method = replica.config.method_ids[job.method]
        assert isinstance(method, Collective), "planning pools nothing else"
        batches = replica.task_batches(job.task)
        work = replica.work(job.task, job.method, [batches[index] for index in job.batches])
        part = method.part(work, _memory(replica))
        self._part = (job, part)
        return Enlisted(tuple(part.prompt_ids), part.about, part.held, replica.device)


def _memory(replica: "Replica") -> int:
    """Bytes that recorded runs may take in this worker."""
    cluster = replica.config.cluster
    if cluster.memory_per_worker is not None:
        return int(cluster.memory_per_worker * 2**30)
    if replica.model.device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(replica.model.device)[0] // 2
    most = (os.cpu_count() or 1) // cluster.threads  # "auto" never places more on a machine
    workers = max(1, most) if cluster.workers == "auto" else cluster.workers
    return free_memory() // 2 // workers


# --- in the driver ----------------------------------------------------------------------------------------


class LostError(Exception):
    """A worker failed, again and again; `failure` says how."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def batches_of(prompts: Sequence[TokenPair], batch_size: int) -> list[list[TokenPair]]:
    """The batches of a task, whoever holds them."""
    return bucket_by_length(prompts, batch_size)


def share_out(work: Sequence[int], workers: int) -> list[tuple[int, ...]]:
    """For each of at most `workers` workers the indices of its batches; `work` is what each costs.

    The largest goes first, to whoever has the least.
    """
    shares: list[list[int]] = [[] for _ in range(min(workers, len(work)))]
    load = [0] * len(shares)
    for index in sorted(range(len(work)), key=lambda i: (-work[i], i)):
        least = load.index(min(load))
        shares[least].append(index)
        load[least] += work[index]
    return [tuple(sorted(share)) for share in shares]


class PooledWorkers:
    """All prompts of a task, held by the workers of a pool: a `pipeline.methods.collective.Workers`.

    A worker that dies is replaced, and one that fails asked anew, up to `attempts` - 1 times in a row; it makes the
    same batches ready and is told what the others were. What wants no answer travels with the next question that does.
    """

    def __init__(
        self, pool: Pool, task: str, method: str, prompts: Sequence[TokenPair], batch_size: int, attempts: int
    ) -> None:
        self._pool, self._attempts = pool, attempts
        batches = batches_of(prompts, batch_size)
        work = [len(batch) * max(pair.length for pair in batch) for batch in batches]
        self._jobs = [Enlist(task, method, share) for share in share_out(work, pool.size)]
        self._settled: list[Question] = []
        self._sent = [0] * len(self._jobs)  # how many of the settled each worker knows
        self.waited = 0.0  # seconds in which the workers computed
        self.deaths = self._failed_in_a_row = 0
        found: list[Enlisted] = self._enlist(range(len(self._jobs)))
        self.held = sum(one.held for one in found), len(batches)
        self.device = ", ".join(dict.fromkeys(one.device for one in found))
        self.about = [one.about for one in found]
        ids = np.concatenate([one.prompt_ids for one in found])
        self._order = np.argsort(ids, kind="stable")
        self._batch_order = np.argsort([index for job in self._jobs for index in job.batches])
        self.n_prompts = len(ids)

    @property
    def count(self) -> int:
        return len(self._jobs)

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer per question; of those that want none, one without rows."""
        wanted = tuple(question for question in questions if question.per is not None)
        self._settled += [question for question in questions if question.per is None]
        nothing = np.empty((0, self.n_prompts))
        if not wanted:
            return [nothing] * len(questions)
        by_worker = self._consult(wanted)
        answers = map(self._joined, wanted, zip(*by_worker, strict=True))
        return [nothing if question.per is None else next(answers) for question in questions]

    def _joined(self, question: Question, parts: Sequence[Answer]) -> Answer:
        """The answers of all workers as one, in the order of prompts or of batches."""
        if question.per == "prompt":
            return np.concatenate(parts, axis=-1)[..., self._order]
        return np.concatenate(parts, axis=0)[self._batch_order]

    def _consult(self, measures: tuple[Question, ...]) -> list[list[Answer]]:
        """Every worker's answers, from those who have answered or from their successors."""
        answers: dict[int, Any] = {}
        while len(answers) < self.count:
            asked = {
                slot: Consult(job, (*self._settled[self._sent[slot] :], *measures))
                for slot, job in enumerate(self._jobs)
                if slot not in answers
            }
            results, lost = self._together(asked)
            for slot, result in results.items():
                self._sent[slot] = len(self._settled)
                answers[slot] = result[-len(measures) :]
            if lost:
                self._enlist(lost)
        return [answers[slot] for slot in range(self.count)]

    def _enlist(self, slots: Iterable[int]) -> list[Enlisted]:
        """Has these slots record their batches, knowing nothing else."""
        found: dict[int, Enlisted] = {}
        missing = list(slots)
        while missing:
            results, missing = self._together({slot: self._jobs[slot] for slot in missing})
            found |= results
            for slot in results:
                self._sent[slot] = 0
        return [found[slot] for slot in sorted(found)]

    def _together(self, jobs: dict[int, Any]) -> tuple[dict[int, Any], list[int]]:
        """(results by slot, slots that have failed); LostError for what another attempt would not help, and for too
        many attempts in a row with failures. Workers that die together, as with their machine, cost one."""
        since = time.monotonic()
        outcomes = self._pool.together(jobs)
        self.waited += time.monotonic() - since
        lost = []
        for slot, outcome in outcomes.items():
            if outcome.failure is None:
                continue
            if outcome.failure.kind in ("input", "storage") or self._failed_in_a_row + 1 >= self._attempts:
                raise LostError(outcome.failure)
            lost.append(slot)
        self._failed_in_a_row += bool(lost)
        self.deaths += len(lost)
        if not lost and isinstance(next(iter(jobs.values())), Consult):
            self._failed_in_a_row = 0  # there was progress
        return {slot: o.result for slot, o in outcomes.items() if o.failure is None}, lost
