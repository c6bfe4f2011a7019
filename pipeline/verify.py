"""Whether every file of a run is what was written, down to the last value.

Knows which files a run has, and what each must agree with. Mends nothing and renames nothing: what is found is told,
with what to type next. Every file that this version writes has a seal over all its bits, and every line of the log a
checksum; files of earlier versions are held against what they were made from.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.config import RunConfig
from pipeline.core import plugins
from pipeline.core.documents import parse_mapping
from pipeline.core.errors import CircuitsError, RunDirectoryError
from pipeline.core.items import Item, digest
from pipeline.core.results import EDGE_SCORES, NODE_SCORES, ResultType
from pipeline.store.place.atomic import read_json
from pipeline.store.place.seal import is_whole
from pipeline.store.place.where import Place, each, found, place, relative
from pipeline.store.run import circuits, decisions, evaluations, failures, prompt_scores, schema
from pipeline.store.run.aggregate import merged_path
from pipeline.store.run.content import table_digest
from pipeline.store.run.files import DamagedFileError, check_seal, read_footer, read_parquet
from pipeline.store.run.limits import FILE as LIMITS
from pipeline.store.run.limits import read_limits
from pipeline.store.run.log import damaged_lines
from pipeline.store.run.planned import TornManifestError
from pipeline.store.run.prompts_file import read_prompts
from pipeline.store.run.rows import read_rows
from pipeline.store.run.run_dir import SUCCESS, RunDirectory
from pipeline.store.run.status import running
from pipeline.store.run.tables import graph_table, nodes_table

_ALWAYS = (
    "prompt_metrics",
    "statistics",
    "prompt_scores",
    "filtered",
)  # folders of items, beside those of results


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written: its name in the run, what is wrong, what to do."""

    file: str
    reason: str
    next_step: str


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what was found."""

    files: int
    items: int
    missing: int  # items without a file: no damage
    damaged: tuple[Damage, ...]


@dataclass(frozen=True)
class _Check:
    """A file and what tells whether it is good: raises DamagedFileError, or FileNotFoundError."""

    path: Place
    run: Callable[[], object]
    item: Item | None = None
    next_step: str | None = None
    must_be: bool = False  # there


def verify(address: str | Place) -> Verified:
    """Reads every file of a run. Raises RunDirectoryError where there is no run at all."""
    folder = place(address)
    try:
        run = RunDirectory.open(folder)
        checks = [*_plan_checks(run), *_item_checks(run), *_result_checks(run)]
    except RunDirectoryError as error:
        if not (isinstance(error, TornManifestError) or (folder / "manifest.json").is_file()):
            raise
        file, _, words = str(error).removeprefix(f"{folder}/").partition(": ")
        reason, _, next_step = words.rpartition("; ")
        return Verified(1, 0, 0, (Damage(file, reason, next_step),))
    outcomes = list(zip(checks, each(folder, _outcome, checks), strict=True))
    bad = {check.path for check, reason in outcomes if reason is not None}
    good = {check.path: check for check in checks if check.path not in bad}
    seals = [replace(check, run=partial(_seal, run, path), item=None) for path, check in good.items()]
    outcomes += zip(seals, each(folder, _outcome, seals), strict=True)
    mend = f"circuits resume {folder}"
    damaged = [
        Damage(str(relative(check.path, folder)), _where(check, reason), check.next_step or mend)
        for check, reason in outcomes
        if reason is not None and reason != _MISSING
    ]
    known = {check.path for check in checks} | _places(run)
    types = (EDGE_SCORES, NODE_SCORES, *run.types.values())
    folders = {*_ALWAYS, *(name for type_ in types for name in (type_.name, type_.merged))}
    for path in found(folder, "**/*"):
        top = relative(path, folder).parts[0]
        if path not in known and top in folders and path.name[0] not in "._":
            file = str(relative(path, folder))
            damaged.append(Damage(file, "belongs to nothing in the plan", _what_of_it(run, path)))
    missing = {check.item for check, reason in outcomes if reason == _MISSING} - {None}
    there = len({check.path for check, reason in outcomes if reason != _MISSING})
    return Verified(there, len(run.items), len(missing), tuple(sorted(damaged, key=lambda one: one.file)))


_MISSING = "missing"


def _places(run: RunDirectory) -> set[Place]:
    """Where items lie, or may lie in a moment: somebody may be compacting the run."""
    own = {run.path / item.path for item in run.item_keys}
    return own | {
        run.packs.path_of(run.path / item.path, item.shard) for item in run.items if item.kind != "statistics"
    }


def _what_of_it(run: RunDirectory, path: Place) -> str:
    """What to do about a file that the plan does not know. It is removed only where the plan is whole and nobody is
    at work: what an extension has computed may be the only copy of it."""
    if at_work := running(run):
        return f"verify again when {at_work} has ended"
    if run.planned_key not in (None, run.manifest["run_key"]):
        return f"circuits resume {run.path}, and verify again"
    return f"remove {path}"


def _where(check: _Check, reason: str) -> str:
    """The reason, with the item in a file of many."""
    packed = check.item is not None and check.path.name != check.item.path.name
    return f"{check.item.name}: {reason}" if check.item and packed else reason


def _outcome(check: _Check) -> str | None:
    """What is wrong, or None."""
    try:
        check.run()
    except FileNotFoundError:
        return "it is not there" if check.must_be else _MISSING
    except (DamagedFileError, CircuitsError) as error:
        return str(error)
    return None


def _seal(run: RunDirectory, path: Place) -> None:
    """DamagedFileError for a bit in a file that is not what was written. In a run that was planned with seals,
    every document has one."""
    if path.suffix in (".parquet", ".safetensors"):
        check_seal(path)
    elif path.suffix != ".jsonl" and run.is_sealed and not is_whole(path.read_bytes()):
        raise DamagedFileError("a bit in it is not what was written")


# --- what planning has written -----------------------------------------------------------------------------


def _plan_checks(run: RunDirectory) -> Iterator[_Check]:
    again = "run the config again to rewrite it"
    yield _Check(run.path / "manifest.json", partial(_manifest, run), next_step=again)
    yield _Check(run.path / "plan.json", partial(_plan, run), next_step=again)
    yield _Check(run.path / "run.yaml", partial(_config, run), next_step=again)
    yield _Check(run.path / SUCCESS, partial(_success, run))
    yield _Check(run.path / LIMITS, partial(_limits, run), next_step=again)
    tables = {"graph.parquet": graph_table, "nodes.parquet": nodes_table}
    for name, table in tables.items():
        yield _Check(run.path / name, partial(_made_from_graph, run, run.path / name, table), must_be=True)
    prompts = run.path / "prompts.parquet"
    yield _Check(prompts, lambda: _of_run(run, prompts, list(map(len, read_prompts(prompts)))), must_be=True)


def _manifest(run: RunDirectory) -> None:
    manifest = run.manifest
    identity = manifest["identity"]
    if digest(identity) != manifest["run_key"]:
        raise DamagedFileError("its run key is not that of its identity")
    if {id_: entry["parameters"] for id_, entry in manifest["methods"].items()} != identity["methods"]:
        raise DamagedFileError("its methods are not those of its identity")


def _plan(run: RunDirectory) -> None:
    if not run.items or run.plan.get("run_key", run.manifest["run_key"]) != run.manifest["run_key"]:
        raise DamagedFileError("it belongs to another run")


def _limits(run: RunDirectory) -> None:
    if not read_limits(run.path)[1]:
        raise FileNotFoundError


def _success(run: RunDirectory) -> None:
    try:
        facts = read_json(run.path / SUCCESS)
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or facts.get("run_key") != run.manifest["run_key"]:
        raise DamagedFileError("it belongs to another run")


def _config(run: RunDirectory) -> None:
    text = run.run_yaml
    if _lacks_a_plugin(run):  # whose parameters nobody here can read
        return
    identity = RunConfig.from_mapping(parse_mapping(text, "it")).identity()
    planned = run.manifest["identity"]
    same = ("methods", "metric", "ablation", "shards", "seed")
    if {*identity["tasks"]} != {*planned["tasks"]} or any(identity[key] != planned[key] for key in same):
        raise DamagedFileError("it is the config of another run")
    if not text.endswith("\n"):
        raise DamagedFileError("its end is missing")


def _lacks_a_plugin(run: RunDirectory) -> bool:
    """Whether the run uses what a package adds that is not installed here."""
    used = run.manifest.get("plugins", {})
    return any(
        name not in plugins.installed(f"circuits.{group}") for group, names in used.items() for name in names
    )


def _made_from_graph(run: RunDirectory, path: Place, table: Callable[[Any], Any]) -> None:
    read_parquet(path)
    _of_run(run, path)
    if read_footer(path)["values"] != table_digest(table(run.graph)):
        raise DamagedFileError("it is not the table of this run's graph")


def _of_run(run: RunDirectory, path: Place, _table: object = None) -> None:
    if read_footer(path).get("run_key") != run.manifest["run_key"]:
        raise DamagedFileError("it belongs to another run")


# --- items -------------------------------------------------------------------------------------------------


def _item_checks(run: RunDirectory) -> Iterator[_Check]:
    complete = run.is_marked_complete
    for item in run.items:
        path = run.file_of(item)
        yield _Check(path, partial(_item, run, item), item, must_be=complete)
        if item.kind != "statistics" and path.name == item.path.name:
            pack = run.packs.path_of(path, item.shard)  # of a compaction that was stopped: a second copy
            if pack.exists():
                again = f"circuits compact {run.path}"
                yield _Check(pack, partial(_copy, run, item, pack), item, next_step=again)
        if item.method is not None:
            beside = run.path / prompt_scores.path_of(item)
            yield _Check(beside, partial(_prompt_scores, run, item, beside))


def _item(run: RunDirectory, item: Item) -> None:
    rows = int(run.check(item, deep=True, kept={}).get("rows", 0))
    expected = rows
    if item.method is not None and run.type_of(item) == EDGE_SCORES:
        expected = run.graph.n_edges
    elif item.kind == "baseline":
        expected = len(run.used_prompts(item.task, item.shard)) * len(run.manifest["metrics"])
    elif item.kind == "filtered":
        expected = len(run.prompts(item.task, item.shard))
    if rows != expected:
        raise DamagedFileError(f"it has {rows:,} rows where {expected:,} belong")


def _copy(run: RunDirectory, item: Item, path: Place) -> None:
    pack = run.packs.find(path, run.schema(item))
    if item.shard in pack.shards:
        pack.table(item.shard, run.schema(item))


def _prompt_scores(run: RunDirectory, item: Item, path: Place) -> None:
    footer = prompt_scores.check(path, run.graph.n_edges, "float16")
    if footer.get("item_key") != run.item_keys[item]:
        raise DamagedFileError("it belongs to an item with another key")
    prompts = len(run.used_prompts(item.task, item.shard))
    if footer["rows"] != str(prompts):
        raise DamagedFileError(f"it has {footer['rows']} rows where {prompts} belong")
    read_parquet(path)


# --- what was made from them -------------------------------------------------------------------------------


def _result_checks(run: RunDirectory) -> Iterator[_Check]:
    merged = {(item.task, item.method): run.type_of(item) for item in run.items if item.method is not None}
    for (task, method), type_ in sorted(merged.items(), key=lambda pair: pair[0]):
        path = run.path / merged_path(type_, task, method)
        yield _Check(path, partial(_merged, run, path, type_), must_be=run.is_marked_complete)
    table = run.path / circuits.FILE
    yield _Check(
        table,
        lambda: _of_run(run, table, read_parquet(table, circuits.SCHEMA)),
        must_be=run.is_marked_complete,
    )
    for path, row in _circuits(run).items():
        yield _Check(path, partial(circuits.check_circuit, path, row), must_be=True)
    for path in evaluations.files(run.path):
        yield _Check(path, partial(read_parquet, path, evaluations.VALUES))
    others = run.path / evaluations.FILE
    yield _Check(others, lambda: _of_run(run, others, read_parquet(others, evaluations.FOUND)))
    page = run.path / "report.html"
    yield _Check(page, page.stat, next_step=f"circuits report {run.path}")
    for path in found(run.path, "log*.jsonl"):
        yield _Check(path, partial(_log, path), next_step="remove these lines; nothing reads them but people")
    again = "remove it; a search that goes on takes the step again"
    for path in found(run.path / decisions.FOLDER, f"task=*/search=*/{decisions.PATTERN}"):
        yield _Check(path, partial(_decision, path), next_step=again)
    for path in found(run.path / "failures", failures.PATTERN):
        yield _Check(
            path, partial(_failure, path), next_step="remove it; it is a record and nothing reads it"
        )


def _merged(run: RunDirectory, path: Place, type_: ResultType) -> None:
    read_rows(path, type_, schema.merged(type_), run.graph)
    _of_run(run, path)


def _circuits(run: RunDirectory) -> dict[Place, dict[str, Any]]:
    """The circuits that the table lists; a table that cannot be read is a finding of its own."""
    try:
        return circuits.circuit_rows(run.path)
    except (DamagedFileError, FileNotFoundError):
        return {}


def _log(path: Place) -> None:
    if numbers := damaged_lines(path):
        raise DamagedFileError(f"line {', '.join(map(str, numbers[:5]))} is not what was written")


def _decision(path: Place) -> None:
    if decisions.read_one(path) is None:
        raise DamagedFileError("it is not what was decided")


def _failure(path: Place) -> None:
    if failures.read_one(path) is None:
        raise DamagedFileError("it is no record of a failure")


def lines(verified: Verified) -> list[str]:
    """A line for every damaged file."""
    return [f"{one.file}: {one.reason}; next: {one.next_step}" for one in verified.damaged]


def to_dict(verified: Verified) -> dict[str, Any]:
    """The same as plain data."""
    facts: dict[str, Any] = json.loads(json.dumps({**verified.__dict__, "damaged": []}))
    return {**facts, "damaged": [dict(one.__dict__) for one in verified.damaged]}
