"""The config of a run: what is asked for, checked as far as it can be without a model or a prompt.

Knows ids, which part is the run's identity, and what does not go together. Does not know models, tokens or
other files; the fields of the sections are in `pipeline.config.sections`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.ablations import ABLATIONS, get_ablation
from pipeline.config.combined import check_combined, measured_alike
from pipeline.config.ids import added, contents, parameters, unique_ids
from pipeline.config.kept import check_kept, check_until
from pipeline.config.sections import (
    Aggregate,
    Cluster,
    Evaluate,
    Failures,
    ModelSection,
    Section,
    Shards,
    Store,
    Until,
)
from pipeline.config.shorthands import written_out
from pipeline.core.documents import apply_overrides, explain, read_yaml, suggest
from pipeline.core.errors import ConfigError
from pipeline.core.showing import names
from pipeline.core.text import OneLine
from pipeline.methods import Method, MethodConfig
from pipeline.metrics import METRICS, get_metric
from pipeline.store.place.where import Place, place
from pipeline.tasks import FileTask, Task, TaskConfig
from pipeline.tasks.base import GeneratedTask


class RunConfig(Section):
    """Everything a run is asked to do; read one with `RunConfig.load`.

    The sections after `seed` change how it is done and shown, not what its scores are.
    """

    name: str = Field(
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,79}$", description="begins the run directory's name"
    )
    model: ModelSection
    tasks: tuple[TaskConfig, ...] = Field(min_length=1, max_length=1000)
    methods: tuple[MethodConfig, ...] = Field(
        min_length=1, max_length=1000, description="each runs on each task"
    )
    metric: str = Field(default="logit_diff", description="default for the methods, but for acdc")
    ablation: str = Field(default="corrupted", description="default for the methods")
    shards: Shards = Shards()
    seed: int = Field(default=0, ge=0, lt=2**63)
    store: Store = Store()
    until: Until | None = Field(
        default=None,
        description="{stability: 0.8, max_prompts: 256}: shards are added until circuits are so stable",
    )
    aggregate: Aggregate = Aggregate()
    evaluate: Evaluate = Evaluate()
    cluster: Cluster = Cluster()
    failures: Failures = Failures()
    output: OneLine = Field(
        default="results", min_length=1, description="folder that holds the run directories"
    )

    def __repr__(self) -> str:
        tasks, methods = (
            [entry.as_ or entry.name for entry in entries] for entries in (self.tasks, self.methods)
        )
        return f"RunConfig({self.name}: {self.model.name}, tasks {names(tasks)}, methods {names(methods)})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.to_yaml())}</pre>"

    # --- in and out --------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Place, overrides: Sequence[str] = ()) -> "RunConfig":
        """The config in a YAML file with `--set` overrides applied; ConfigError names file and key."""
        mapping = written_out(read_yaml(place(path)))  # an override reaches into what was short before
        return cls.from_mapping(apply_overrides(mapping, overrides), where=str(path))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "config") -> "RunConfig":
        """The config in plain data, with shorthands and other spellings understood (`shorthands`); every error
        is one ConfigError that starts with `where`."""
        mapping = written_out(mapping)
        try:
            return cls.model_validate(mapping)
        except ValidationError as error:
            raise ConfigError(f"{where}: {explain(error, mapping, cls)}") from None
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def resumed(cls, run: str | Place, overrides: Sequence[str] = ()) -> "RunConfig":
        """The config that a run directory holds, with `--set` overrides, to be run again.

        Foreign code is asked for anew: whoever made the directory does not decide what runs here.
        """
        path = place(run) / "run.yaml"
        config = cls.load(path, overrides)
        asked = any(one.partition("=")[0].strip() == "model.trust_remote_code" for one in overrides)
        if config.model.trust_remote_code and not asked:
            raise ConfigError(
                f"{path}: model.trust_remote_code runs Python that comes with the model {config.model.name!r}; if you "
                "trust it, add: --set model.trust_remote_code=true"
            )
        return config

    def to_mapping(self) -> dict[str, Any]:
        """Plain data with every default written out; reads back as an equal config."""
        mapping = self.model_dump(mode="json", by_alias=True)
        if mapping["model"]["gguf"] is None:
            del mapping["model"]["gguf"]
        if mapping["until"] is None:
            del mapping["until"]
        for entry in (*mapping["tasks"], *mapping["methods"]):
            for key in ("as", "metric", "ablation", "thresholds", "resample"):
                if entry.get(key, "") is None:
                    del entry[key]
            if "thresholds" in entry:  # instead of it
                del entry["threshold"]
        return mapping

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_mapping(), sort_keys=False, allow_unicode=True, width=110)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "RunConfig":
        """A copy with other values, which knows nothing of what was derived from the old ones."""
        copy = super().model_copy(update=update, deep=deep)
        for name in _DERIVED:
            copy.__dict__.pop(name, None)
        return copy

    def anchored(self) -> "RunConfig":
        """This config with absolute paths: a run is resumed from any folder. Where something lies is written down, and
        is no part of what a run is."""
        name = self.model.name
        if Path(name).is_dir():
            name = str(Path(name).absolute())
        tasks = tuple(
            task.model_copy(update={"path": str(Path(task.path).absolute())})
            if isinstance(task, FileTask)
            else task
            for task in self.tasks
        )
        methods = tuple(method.anchored() for method in self.methods)
        model = self.model.model_copy(update={"name": name})
        return self.model_copy(update={"model": model, "tasks": tasks, "methods": methods})

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema of a config file, for editors; of shorthands it admits names in place of sections."""
        schema = cls.model_json_schema(by_alias=True)
        word = {"type": "string", "description": "its name alone"}
        fields = schema["properties"]
        fields["model"] = {"anyOf": [fields["model"], word]}
        for key in ("tasks", "methods"):
            fields[key]["items"] = {"anyOf": [fields[key]["items"], word]}
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

    # --- ids ---------------------------------------------------------------------------------------------

    @cached_property
    def task_ids(self) -> dict[str, Task]:
        """Every task by its id in this run, with that id written into `as`."""
        ids = unique_ids(self.tasks, "tasks")
        return {id_: task.model_copy(update={"as_": id_}) for id_, task in zip(ids, self.tasks, strict=True)}

    @property
    def discovering(self) -> dict[str, Task]:
        """The tasks that methods are run on, by id: those whose prompts are not held out."""
        return {id_: task for id_, task in self.task_ids.items() if task.held_out_of is None}

    @cached_property
    def method_ids(self) -> dict[str, Method]:
        """Every method by its id in this run, with id, metric and ablation written out."""
        methods = [method for entry in self.methods for method in entry.expanded()]
        ids = unique_ids(methods, "methods")
        return measured_alike(
            {
                id_: method.resolved(self.metric, self.ablation).model_copy(update={"as_": id_})
                for id_, method in zip(ids, methods, strict=True)
            }
        )

    def sweep_of(self, method: str) -> tuple[str, ...]:
        """Ids of the methods that differ from this one in nothing but the parameter that it sweeps, itself
        included; they are computed together."""
        methods = self.method_ids
        swept = methods[method].swept
        if swept is None:
            return (method,)

        return self._like(method, swept)

    def resamples_of(self, method: str) -> tuple[str, ...]:
        """Ids of the methods that are this one on resampled prompts."""
        return tuple(id_ for id_ in self._like(method, "resample") if self.method_ids[id_].drawn is not None)

    def _like(self, method: str, apart: str) -> tuple[str, ...]:
        """Ids of the methods that differ from this one in one parameter at most."""

        def rest(id_: str) -> dict[str, Any]:
            return {key: value for key, value in parameters(self.method_ids[id_]).items() if key != apart}

        return tuple(id_ for id_ in self.method_ids if rest(id_) == rest(method))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that this run uses; the baseline holds them."""
        return _in_order(METRICS, (method.metric for method in self.method_ids.values()))

    @cached_property
    def ablations(self) -> tuple[str, ...]:
        """Names of the ablations that this run uses."""
        return _in_order(ABLATIONS, (method.ablation for method in self.method_ids.values()))

    @cached_property
    def plugins(self) -> dict[str, dict[str, str]]:
        """What installed packages add to this run, by group and name, with the packages."""
        return added(
            methods=[method.name for method in self.methods],
            tasks=[task.name for task in self.tasks],
            metrics=[name for name in self.metrics if name not in METRICS],
            ablations=[name for name in self.ablations if name not in ABLATIONS],
            evaluations=[one.name for one in self.evaluate.also],
        )

    @cached_property
    def prompt_scores(self) -> dict[str, str]:
        """The methods whose scores are kept prompt by prompt, by id, with the type of the numbers."""
        wanted = self.store.prompt_scores
        known = self.method_ids
        kept = {
            id_: self.store.dtype
            for id_, method in known.items()
            if (id_ in wanted if isinstance(wanted, tuple) else wanted and method.scores_prompts)
        }
        return {id_: kind for id_, kind in kept.items() if kept.keys() >= {*known[id_].combines}}

    def identity(self) -> dict[str, Any]:
        """What the scores depend on, as plain data: not where it runs or what it is called.

        The model's name and revision are left to planning, which knows the commit or the hash of the files, and so are
        the paths of prompts, whose contents it knows.
        """
        model: dict[str, Any] = {"dtype": self.model.dtype, "kv": self.model.kv}
        if self.model.trust_remote_code:  # only then: keys of runs without foreign code are what they were
            model["trust_remote_code"] = True
        if self.model.untrained is not None:
            model["untrained"] = self.model.untrained
        return {
            "model": model,
            "tasks": {id_: contents(task) for id_, task in self.task_ids.items()},
            "methods": {id_: parameters(method) for id_, method in self.method_ids.items()},
            "metric": self.metric,
            "ablation": self.ablation,
            "shards": self.shards.model_dump(),
            "seed": self.seed,
        }

    def with_file(self, path: str, *, circuit: bool, alone: bool) -> "RunConfig":
        """This config with one more method, the scores or the circuit in a file; `alone`: in place of all others, of
        whose prompts nothing is kept then."""
        mapping = self.to_mapping()
        entry = {"name": "file", "path": path, "circuit": circuit}
        mapping["methods"] = [entry] if alone else [*mapping["methods"], entry]
        if alone:
            mapping["store"]["prompt_scores"] = False
            mapping["aggregate"] = {}
        return RunConfig.from_mapping(mapping, where=path)

    def extended_by(self, other: "RunConfig") -> "RunConfig":
        """This config with the tasks and methods of `other` that it lacks.

        ConfigError when the rest of the identity differs, or when an id stands for different parameters. A file of
        prompts may have moved: it is looked for where `other` says, and planning compares what is in it.
        """
        mine, theirs = self.identity(), other.identity()
        for key in ("metric", "ablation", "shards", "seed", "model"):
            if mine[key] != theirs[key]:
                raise ConfigError(f"{key}: a run is extended with equal {key} only; it has {mine[key]}")
        if self.model.post_norm != other.model.post_norm:
            raise ConfigError(
                f"model: a run is extended with equal model only; its post_norm is {self.model.post_norm}"
            )
        for section in ("tasks", "methods"):
            for id_ in mine[section].keys() & theirs[section].keys():
                if mine[section][id_] != theirs[section][id_]:
                    raise ConfigError(
                        f"{section}: {id_!r} has other parameters in the run; give it another id, as: ..."
                    )
        new_tasks = [task for id_, task in other.task_ids.items() if id_ not in self.task_ids]
        new_methods = [m for id_, m in other.method_ids.items() if id_ not in self.method_ids]
        known = {id_: task for id_, task in other.task_ids.items() if id_ in self.task_ids}
        # ids are written out, so that no entry changes its name because of a new neighbour
        entries = {
            "tasks": (*({**self.task_ids, **known}.values()), *new_tasks),
            "methods": (*self.method_ids.values(), *new_methods),
        }
        rest = {key: getattr(other, key) for key in RunConfig.model_fields if key not in entries}
        return RunConfig(**{**rest, "name": self.name, **entries})

    # --- checks ------------------------------------------------------------------------------------------

    @field_validator("tasks")
    @classmethod
    def _with_held_out(cls, tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
        """A task that holds prompts out becomes two."""
        return tuple(
            part for task in tasks for part in (task.apart() if isinstance(task, GeneratedTask) else (task,))
        )

    @field_validator("output")
    @classmethod
    def _leads_somewhere(cls, value: str) -> str:
        try:
            place(value)
        except ConfigError as error:  # not a ValueError: it would be shown with the value, secrets included
            raise ConfigError(f"output: {error}") from None
        return value

    @model_validator(mode="after")
    def _means_something(self) -> "RunConfig":
        """Names that exist, unique ids, and combinations that mean something."""
        _exists("metric", get_metric, self.metric)
        _exists("ablation", get_ablation, self.ablation)
        for index, method in enumerate(self.methods):
            _exists(f"methods.{index}.metric", get_metric, method.metric)
            _exists(f"methods.{index}.ablation", get_ablation, method.ablation)
        places = self.model.device_map
        chosen = set(places.values()) if isinstance(places, dict) else {places}
        if chosen - {"auto", "cpu", "disk"} and not self.cluster.gpus_per_worker:
            raise ConfigError(
                f"model.device_map: {places!r} asks for a device and cluster.gpus_per_worker is 0, "
                "which computes on the CPU; set cluster.gpus_per_worker: 1"
            )
        for id_, task in self.task_ids.items():
            if task.held_out_of is not None:
                _known(f"tasks ({id_}): held_out_of", task.held_out_of, self.discovering, "task")
        entries = [index for index, entry in enumerate(self.methods) for _ in entry.expanded()]
        for index, (id_, resolved) in zip(entries, self.method_ids.items(), strict=True):
            try:
                resolved.check(self.model.dtype)
            except ConfigError as error:
                raise ConfigError(f"methods.{index} ({id_}): {error}") from None
        check_combined(self.method_ids, self.store.prompt_scores)
        if self.until is not None:
            check_until(self.until, self.shards, self.discovering, self.method_ids, self.prompt_scores)
        check_kept(self.store.prompt_scores, self.method_ids, self.aggregate, kept=bool(self.prompt_scores))
        return self


_DERIVED = [name for name, value in vars(RunConfig).items() if isinstance(value, cached_property)]


def _in_order(known: Iterable[str], used: Iterable[str | None]) -> tuple[str, ...]:
    """The names that are used, each once: in the order in which they are known here, then what packages add."""
    names = {name for name in used if name is not None}
    return (*(name for name in known if name in names), *sorted(names - {*known}))


def _exists(key: str, get: Callable[[str], object], name: str | None) -> None:
    try:
        if name is not None:
            get(name)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def _known(key: str, name: str, known: Mapping[str, Any], what: str = "") -> None:
    if name not in known:
        raise ConfigError(f"{key}: unknown {what or key.rsplit('.', 1)[-1]} {name!r}{suggest(name, known)}")
