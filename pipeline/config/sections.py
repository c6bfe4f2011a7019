"""The sections of a config: their fields, defaults and limits.

Knows one section at a time. Does not know how they fit together (`pipeline.config`).
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from pipeline.core.documents import suggest
from pipeline.core.entries import Entry
from pipeline.core.items import digest
from pipeline.core.selection import Rank
from pipeline.core.text import OneLine
from pipeline.evaluation import EvaluationConfig
from pipeline.evaluation.verdict import EVALUATIONS as OF_A_VERDICT
from pipeline.evaluation.verdict import Bars
from pipeline.models.families import PostNorm
from pipeline.store.run.bootstrap import MOST_EDGES

MOST_PROMPTS = 10**9  # of a shard or a pass: more than any memory holds, and still a number
Fraction = Annotated[float, Field(gt=0, le=1)]


class Section(Entry):
    """A part of the config: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSection(Section):
    """Which model, and how it is read. `device_map` and `cuda_graphs` are where and how it runs, and not part of the
    run's identity."""

    later: ClassVar = frozenset({"untrained", "cuda_graphs"})

    name: OneLine = Field(min_length=1, description="hub name, local folder, or toy:planted / toy:trained")
    revision: OneLine = Field(default="main", min_length=1, description="branch, tag or commit on the hub")
    gguf: OneLine | None = Field(
        default=None, min_length=1, description="a .gguf file in that folder, which alone is the model"
    )
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    device_map: str | dict[str, int | str] = Field(
        default="auto",
        min_length=1,
        description="auto, balanced, cpu, cuda:0, or a mapping of module names to devices, cpu and disk, as accelerate "
        "reads it",
    )
    max_memory: dict[int | str, int | str] | None = Field(
        default=None, description="the most that each device may hold, such as {0: 20GiB, cpu: 60GiB}"
    )
    kv: Literal["query_head", "kv_head"] = Field(
        default="query_head", description="a <k> and <v> per query head, or per key-value head of the model"
    )
    post_norm: PostNorm = Field(
        default="mixed",
        description="where a norm follows attention: readers norm the mixed sum; heads write their own share; as MIB",
    )
    trust_remote_code: bool = Field(default=False, description="run Python that comes with the model")
    untrained: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="instead of its weights those that training begins with, drawn by this seed: a baseline",
    )
    cuda_graphs: bool = Field(
        default=False,
        description="eap and eap_ig in padded, static shapes, captured as CUDA graphs: for small models on a GPU, "
        "which wait for launches; without CUDA the same shapes without capture",
    )

    @property
    def reading(self) -> dict[str, Any]:
        """What `load_model` is told of how the model is read, wherever it lies."""
        return self.model_dump(exclude={"name", "revision", "device_map", "max_memory"})


class Shards(Section):
    """How a task's prompts are cut: in order, unless something else is asked for."""

    later: ClassVar = frozenset({"by_length", "stratify", "minutes", "tokens_per_second"})

    prompts: int = Field(default=100, ge=1, le=MOST_PROMPTS, description="prompts per shard")
    by_length: bool = Field(default=False, description="prompts of like length together: less padding")
    stratify: OneLine | None = Field(
        default=None,
        min_length=1,
        description="a like share in every shard of each template (what is left of a prompt without its spans), or of "
        "each value of another column of a file",
    )
    minutes: float | None = Field(
        default=None, gt=0, le=1e6, description="instead of a number of prompts: how long a shard may take"
    )
    tokens_per_second: float | None = Field(
        default=None,
        gt=0,
        le=1e12,
        description="for minutes: tokens of prompts that a worker takes through its slowest method in a second",
    )

    @model_validator(mode="after")
    def _says_how_fast(self) -> "Shards":
        if (self.minutes is None) != (self.tokens_per_second is None):
            raise ValueError(
                "minutes needs tokens_per_second, and the other way round: shards must not depend on who measures; "
                "`circuits status` of a run says how long its items took"
            )
        return self

    @property
    def most_tokens(self) -> float | None:
        """Tokens of prompts that a shard may hold, where it is cut by time."""
        return None if self.minutes is None else self.minutes * 60 * float(self.tokens_per_second or 0)

    @property
    def in_order(self) -> bool:
        """Whether shards are so many consecutive prompts each."""
        return not self.by_length and self.stratify is None and self.minutes is None


class Evaluate(Section):
    """At which sizes the circuits are evaluated, how they are selected, and what else is looked at."""

    later: ClassVar = frozenset({"also", "bars"})

    edge_fractions: tuple[Fraction, ...] = Field(
        default=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), max_length=1000
    )
    rank: Rank | tuple[Rank, ...] = Field(
        default="absolute",
        description="by which rule edges are selected, or several rules to compare; then the circuit that is judged is "
        "the best of theirs on the prompts that the scores come from. No rule wins everywhere "
        "(results/reference/smollm2/methods.md)",
    )
    also: tuple[EvaluationConfig, ...] = Field(
        default=(),
        max_length=100,
        description="what is looked at beside faithfulness: auroc, cpr_cmd, verdict ...",
    )
    bars: Bars = Bars()

    @field_validator("rank", mode="before")
    @classmethod
    def _each_rule_once(cls, value: Any) -> Any:
        """One rule alone is no list, so that what it gives is what it was."""
        several = value if isinstance(value, list | tuple) else (value,)
        if not several:
            raise ValueError("name a rule, or several")
        known = get_args(Rank)
        if unknown := [one for one in several if one not in known]:
            raise ValueError(f"there is no rule {unknown[0]!r}{suggest(str(unknown[0]), known)}")
        if twice := [one for place, one in enumerate(several) if one in several[:place]]:
            raise ValueError(f"{twice[0]} is there twice")
        return several[0] if len(several) == 1 else tuple(several)

    @field_validator("also", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A name alone stands for an evaluation with its defaults, and `verdict` for all that a verdict is made of."""
        entries = [value] if isinstance(value, str) else value
        if not isinstance(entries, list | tuple):
            return entries
        named = [{"name": one} if isinstance(one, str) else one for one in entries]
        if {"name": "verdict"} not in named:
            return tuple(named)
        rest = [one for one in named if one != {"name": "verdict"}]
        there = {one["name"] if isinstance(one, Mapping) else one.name for one in rest if one}
        return (*rest, *({"name": name} for name in OF_A_VERDICT if name not in there))

    @field_validator("also")
    @classmethod
    def _each_once(cls, also: tuple[EvaluationConfig, ...]) -> tuple[EvaluationConfig, ...]:
        """Files are called after evaluations."""
        names = [one.name for one in also]
        if twice := [name for name in names if names.count(name) > 1 or name == "faithfulness"]:
            raise ValueError(f"{twice[0]} is there already: every evaluation is looked at once")
        return also

    @property
    def ranks(self) -> tuple[Rank, ...]:
        """The rules, in their order."""
        return self.rank if isinstance(self.rank, tuple) else (self.rank,)

    def by(self, rank: Rank) -> "Evaluate":
        """The section with this rule alone."""
        return self.model_copy(update={"rank": rank})

    @property
    def key(self) -> str:
        """Digest of the section, for the footer of what was evaluated."""
        data = self.model_dump(mode="json")
        if data.pop("bars", None) and self.bars.sufficient != Bars().sufficient:
            # by which a circuit is chosen; the others change no number
            data["sufficient"] = list(self.bars.sufficient)
        return digest(data)


class Aggregate(Section):
    """What is computed beside means and Student's intervals when shards are merged."""

    bootstrap: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="samples of a bootstrap over prompts; 0 for none, 200 is usual",
    )
    bootstrap_top: int | None = Field(
        default=None, ge=1, le=MOST_EDGES, description="only for so many of the strongest edges of a method"
    )

    @field_validator("bootstrap")
    @classmethod
    def _enough(cls, value: int) -> int:
        if 0 < value < 40:
            raise ValueError("fewer than 40 samples have no 2.5 % quantile; take 200, or 0 for none")
        return value


class Store(Section):
    """What is kept beside the scores that are merged over prompts."""

    prompt_scores: bool | tuple[str, ...] = Field(
        default=False,
        description="also every prompt's score of every edge: true for all methods that have them, or ids of methods",
    )
    dtype: Literal["float32", "float16"] = Field(
        default="float32", description="of these numbers; float16 halves the files and lets weak edges tie"
    )

    @field_validator("prompt_scores", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        if not isinstance(value, bool | str | list | tuple):
            raise ValueError("give true, false, or a list of methods' ids")  # noqa: TRY004 - pydantic's kind
        return (value,) if isinstance(value, str) else value


class Until(Section):
    """When a run has prompts enough: shards are added to its tasks until their circuits are stable."""

    stability: float = Field(
        gt=0, lt=1, description="mean Jaccard overlap of circuits of resampled prompts, such as .8"
    )
    max_prompts: int = Field(ge=2, le=1_000_000, description="of a task, whatever the overlap then is")
    fraction: Fraction = Field(default=0.01, description="share of the edges that these circuits have")
    resamples: int = Field(default=100, ge=2, le=10_000)
    seed: int = Field(default=0, ge=0, lt=2**63)


class Cluster(Section):
    """Who computes: changes the time, not the scores."""

    address: OneLine = Field(
        default="local", min_length=1, description="local, or the address of a Ray cluster"
    )
    workers: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = Field(
        default=1,
        description="model replicas; auto: as many as CPUs, GPUs and memory hold (`circuits plan` says why)",
    )
    gpus_per_worker: float = Field(default=0, ge=0, le=1024, description="whole devices, or a part of one")
    batch_size: int = Field(default=32, ge=1, le=MOST_PROMPTS, description="prompts per pass")
    threads: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="CPU threads per worker; another worker gains more where memory allows, and more than 1 thread may "
        "change last digits",
    )
    wait_minutes: float = Field(
        default=0,
        ge=0,
        description="how long a cluster that grows may take until a first worker fits; 0: what it has now is all",
    )
    memory_per_worker: float | None = Field(
        default=None,
        gt=0,
        description="GiB that recorded runs of a pooled search may take; default: half of what is free, shared",
    )

    @field_validator("workers", mode="before")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError("give a whole number from 1 on, or auto")
        return value

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_or_part(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("more than one device per worker must be a whole number of devices")
        return value


class Failures(Section):
    """How failures are met."""

    retries: int = Field(default=2, ge=0, le=1000, description="further attempts after a worker's death")
    tolerate: Fraction | Literal[0] = Field(
        default=0.05, description="share of failed items at which to stop early"
    )
    stragglers: float = Field(
        default=4,
        ge=0,
        description="near the end an idle worker repeats what takes so many times as long as its like; 0: never",
    )

    def tolerated(self, n_items: int) -> int:
        """How many failed items do not stop a run of so many yet."""
        # 0.1 * 30 is 3.0000000000000004: the product is rounded before it is rounded up
        return math.ceil(round(self.tolerate * n_items, 9))
