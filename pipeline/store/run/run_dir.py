"""A run directory as its owner sees it: create, open, own, failures, whether it is complete.

Knows who may write into it, and what lies beside another run. What an item's file is, `item_files` knows.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.core.errors import RunDirectoryError, StorageError
from pipeline.core.graph import Graph
from pipeline.core.items import Item
from pipeline.store.place.atomic import read_json, remove, sweep_temporaries, write_json
from pipeline.store.place.links import refuse_ways_out
from pipeline.store.place.lock import Hold, holding
from pipeline.store.place.nearby import refuse_what_is_no_run
from pipeline.store.place.where import Place, place
from pipeline.store.run import failures, schema
from pipeline.store.run.identity import difference, holds
from pipeline.store.run.item_files import ItemFiles
from pipeline.store.run.limits import Limits, write_limits
from pipeline.store.run.planned import TornManifestError, recorded_key, strangers, write_plan
from pipeline.store.run.prompts_file import Prompts

SUCCESS = "_SUCCESS.json"


class RunDirectory(ItemFiles):
    """The directory at `path`; make one with `create` or `open`."""

    # --- making and opening ------------------------------------------------------------------------------

    @staticmethod
    def create(
        path: str | Place,
        *,
        run_yaml: str,
        manifest: dict[str, Any],
        plan: dict[str, Any],
        graph: Graph,
        prompts: Prompts,
        extend: bool = False,
    ) -> "RunDirectory":
        """The directory with everything that planning knows in it; `prompts` are {task: all of them, or its shards}.

        One that exists is taken when its run key is the same, when it was extended to more than this plan, or
        when `extend` and only tasks and methods are added; else RunDirectoryError names what differs.
        """
        path = place(path)
        if (found := _manifest_at(path)) is not None:
            run = RunDirectory.open(path)
            old, new = found["identity"], manifest["identity"]
            if manifest["run_key"] != run.manifest["run_key"] and holds(old, new):
                return run
            if extend and not holds(new, old):
                raise RunDirectoryError(
                    f"{path}: cannot be extended ({difference(old, new)}); start a run of its own"
                )
            # an extension, and then killed
            begun = holds(new, old) and run.planned_key == manifest["run_key"]
            if not (extend or begun) and manifest["run_key"] != run.manifest["run_key"]:
                raise RunDirectoryError(
                    f"{path}: holds another run ({difference(old, new)}); choose another --run-dir, or "
                    "leave it out to get one by name"
                )
            run.mark_incomplete()  # before anything is written that it was not complete for
        else:
            _refuse_strangers(path)
            _refuse_another(path, manifest["run_key"])
        run = RunDirectory(path)
        write_plan(path, run_yaml=run_yaml, manifest=manifest, plan=plan, graph=graph, prompts=prompts)
        return run

    @staticmethod
    def open(path: str | Place) -> "RunDirectory":
        """An existing run; RunDirectoryError when there is none, or one that this version cannot read."""
        run = RunDirectory(place(path))
        refuse_what_is_no_run(run.path)
        refuse_ways_out(run.path)
        _ = run.manifest  # says what is wrong with it
        return run

    @contextmanager
    def lock(self) -> Iterator[Hold]:
        """Owns the directory while the block runs; RunDirectoryError when a live process does, or when it holds
        something else: nothing of that is touched."""
        if not (self.path / "manifest.json").is_file():
            _refuse_strangers(self.path)
        refuse_ways_out(self.path)
        sweep_temporaries(self.path)
        with holding(self.path) as hold:
            yield hold

    def filtered(self) -> dict[str, dict[str, int]]:
        """By task with a filter: how many prompts are kept, `of` how many that were looked at, in `all`."""
        counts = {}
        for task, items in self._filters.items():
            tables = [self.table(item) for item in items if item in self.done([item], rename=False)]
            kept = sum(int(table["kept"].to_numpy(zero_copy_only=False).sum()) for table in tables)
            counts[task] = {"kept": kept, "of": sum(map(len, tables)), "all": len(self.prompts(task))}
        return counts

    def record_filtered(self) -> None:
        """Writes into the manifest how many prompts of how many are measured."""
        if self._filters:
            self.manifest["filtered"] = self.filtered()
            write_json(self.path / "manifest.json", self.manifest)

    def limit(self, asked: Mapping[str, Any], tasks: Limits) -> None:
        """Says how many shards of these tasks count from now on (`until`); of no task, all of every one."""
        write_limits(self.path, asked, tasks)
        self.__dict__.pop("limits", None)

    # --- failures ----------------------------------------------------------------------------------------

    def record_failure(self, item: Item, attempt: int, info: Mapping[str, Any]) -> Place:
        """Writes the record of a failed attempt: `info` (traceback, host, device, next step ...) as JSON."""
        return failures.record(self.path, item, attempt, info)

    def failures(self) -> list[dict[str, Any]]:
        """Every failure record, with its item's fields, name and attempt, by item and attempt."""
        return failures.read(self.path)

    def clear_failures(self, items: Iterable[Item] | None = None) -> None:
        """Removes the failure records of these items, or of all."""
        failures.clear(self.path, items)

    # --- completion --------------------------------------------------------------------------------------

    @property
    def is_marked_complete(self) -> bool:
        """Whether nothing was missing when the run ended, in items or in evaluation, and it is still that run: an
        extension has another key and more items."""
        try:
            mark = read_json(self.path / SUCCESS)
        except StorageError:
            raise
        except (OSError, ValueError):
            return False
        return isinstance(mark, dict) and (mark.get("run_key"), mark.get("items")) == (
            self.manifest["run_key"],
            len(self.items),
        )

    def mark_complete(self) -> None:
        """Writes `_SUCCESS.json`: every item of the plan is there, merged and evaluated."""
        facts = {"run_key": self.manifest["run_key"], "items": len(self.items)}
        write_json(self.path / SUCCESS, {"schema_version": schema.SCHEMA_VERSION, **facts})

    def mark_incomplete(self) -> None:
        remove(self.path / SUCCESS)


def _manifest_at(path: Place) -> dict[str, Any] | None:
    """The manifest of a run; None where there is none, or one that is torn and can be written anew."""
    try:
        return RunDirectory.open(path).manifest if (path / "manifest.json").is_file() else None
    except TornManifestError:
        return None


def _refuse_another(path: Place, run_key: str) -> None:
    """RunDirectoryError where results lie beside a manifest that is torn or gone, and are not those of this run."""
    if recorded_key(path) not in (None, run_key) and next(iter(path.glob("*/task=*")), None) is not None:
        raise RunDirectoryError(
            f"{path}: holds another run, whose manifest.json is torn or gone (circuits resume {path} writes it anew); "
            "choose another --run-dir, or leave it out to get one by name"
        )


def _refuse_strangers(path: Place) -> None:
    if path.exists() and (strange := strangers(path)):
        raise RunDirectoryError(
            f"{path}: is no run directory (it holds {strange}); choose an empty or new one"
        )
