"""Several runs as one piece of work: planned first, then run so that each model is loaded once per worker.

Knows in which order runs go and which of them share workers. This is what `circuits submit` starts on a cluster,
as a Ray job (`python -m flows.sweep FILE...`, with the environment of `flows.environment`) or as a Prefect flow
(`sweep`), and what a batch system starts (`--address auto` before the files: the cluster of RAY_ADDRESS instead of
one of its own); it does not know who submitted.
"""

import json
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.artifacts import quietly
from flows.discover import IncompleteRunError
from flows.progress import shown
from flows.running import run_flow
from flows.stopping import stoppable
from pipeline.cluster.submission import keep_folder_from_workers
from pipeline.config import RunConfig
from pipeline.core.errors import CircuitsError, ConfigError
from pipeline.schedule.conduct import conduct, settle
from pipeline.schedule.pools import lend, open_shared_pool, starting
from pipeline.schedule.preparing import prepare
from pipeline.schedule.session import OnEvent, Session, ignore
from pipeline.store.place.atomic import write_atomic
from pipeline.tasks import FileTask

MARK = "circuits-run "  # begins the lines of a job's log that `circuits submit` reads
INPUTS = "inputs"  # prompt files that came with a job, beside the config and then beside the runs


@dataclass(frozen=True)
class Entry:
    """A config of the sweep and what has become of it. Entries of one `kin` share workers."""

    name: str
    run: str = ""
    error: str = ""
    missing: int = 0
    complete: bool = False
    kin: str = ""
    bytes_per_worker: int = 0


OnEntry = Callable[[Entry], None]


def run_sweep(
    configs: Mapping[str, RunConfig], on_entry: OnEntry, on_event: OnEvent = ignore, *, local: bool = False
) -> list[Entry]:
    """Runs every config, and tells of each twice: once planned, with its directory, and once at its end.

    One that cannot be planned or run does not keep the others from it. Configs that ask the same of model and
    cluster come one after the other and share one pool; the one that takes most memory is first, as the pool is
    opened for what it takes.
    """
    planned = {name: _plan(name, config) for name, config in configs.items()}
    for entry in planned.values():
        on_entry(entry)
    ended = {name: entry for name, entry in planned.items() if entry.error}
    for kin in dict.fromkeys(entry.kin for entry in planned.values() if not entry.error):
        with ExitStack() as stack:
            pool: Any = None  # opened by the first run that has anything to compute
            relatives = [entry for entry in planned.values() if entry.kin == kin and not entry.error]
            for entry in sorted(relatives, key=lambda entry: -entry.bytes_per_worker):
                name = entry.name
                try:
                    with closing(prepare(configs[name])) as session:
                        if not settle(session):
                            pool = pool or _open(session, stack, local=local)
                            _run(session, pool, on_event, local=local)
                        ended[name] = _ended(entry, session)
                except Exception as error:  # noqa: BLE001 - the others deserve their turn
                    ended[name] = replace(entry, error=_one_line(error))
                on_entry(ended[name])
    return [ended[name] for name in configs]


@flow(name="sweep", retries=0, persist_result=False, validate_parameters=False, log_prints=False)
def sweep(configs: list[dict[str, Any]]) -> list[str]:
    """Runs the configs and returns their directories. `circuits submit --to prefect` starts here.

    Raises IncompleteRunError when a run could not be planned or lacks items in the end.
    """
    named = {
        f"config {index}": RunConfig.from_mapping(mapping, f"config {index}")
        for index, mapping in enumerate(configs)
    }
    told: list[Entry] = []

    def show(entry: Entry) -> None:
        told.append(entry)
        if len(told) == len(named):
            table = [{"config": entry.name, "run": entry.run, "error": entry.error} for entry in told]
            quietly(create_table_artifact, key="runs", table=table, description="the runs of this submission")

    ended = run_sweep(named, show)
    if bad := [_verdict(entry) for entry in ended if not entry.complete]:
        raise IncompleteRunError("; ".join(bad))
    return [entry.run for entry in ended]


def main(words: Sequence[str] | None = None) -> int:
    """Runs the configs of a job, tells of them in its log, and returns the exit code of `circuits run`.

    Without `words` those of the process, which ends with this.
    """
    keep_folder_from_workers()
    parser = ArgumentParser(prog="python -m flows.sweep")
    parser.add_argument("--address", help="the cluster of every config that names none")
    parser.add_argument("files", nargs="+", metavar="FILE")
    asked = parser.parse_args(words)
    try:
        configs = {
            Path(file).stem: place_inputs(_reaching(RunConfig.load(file), asked.address), Path.cwd())
            for file in asked.files
        }
    except (CircuitsError, OSError) as error:
        _tell(Entry("", error=_one_line(error)))
        return 2
    try:
        with stoppable(last=words is None), shown() as on_event:
            ended = run_sweep(configs, _tell, on_event)
    except KeyboardInterrupt:
        print("stopped; the same submission goes on where it was", file=sys.stderr)
        return 130
    if any(entry.error for entry in ended):
        return 1
    return 0 if all(entry.complete for entry in ended) else 3


def place_inputs(config: RunConfig, folder: Path) -> RunConfig:
    """The config with its prompt files, as far as they came with the job, laid beside the runs: the job's own
    folder goes away, and every node and every resumption reads them."""
    output = Path(config.output)
    if "://" not in config.output and not output.parent.is_dir():
        raise ConfigError(
            f"output: {output.parent} is not there on the cluster; name a folder that every node sees"
        )

    def placed(task: Any) -> Any:
        if not isinstance(task, FileTask) or not task.path.startswith(f"{INPUTS}/"):
            return task
        there = output / task.path
        if not there.is_file():
            there.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(there, (folder / task.path).read_bytes())
        return task.model_copy(update={"path": str(there)})

    return config.model_copy(update={"tasks": tuple(placed(task) for task in config.tasks)})


# --- details -----------------------------------------------------------------------------------------------


def _reaching(config: RunConfig, address: str | None) -> RunConfig:
    if address is None or config.cluster.address != "local":
        return config
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"address": address})})


def _plan(name: str, config: RunConfig) -> Entry:
    """Makes the run's directory and lets go of it again, so that it can be asked for its status at once."""
    try:
        with closing(prepare(config)) as session:
            asked = [session.directory.manifest["model"], config.model.model_dump(mode="json")]
            kin = json.dumps([*asked, config.cluster.model_dump(mode="json")], sort_keys=True)
            need = session.plan.need
            size = need.memory_bytes + need.device_bytes
            return Entry(name, str(session.path.absolute()), kin=kin, bytes_per_worker=size)
    except (CircuitsError, OSError) as error:
        return Entry(name, error=_one_line(error))


def _open(session: Session, stack: ExitStack, *, local: bool) -> Any:
    if local:
        return stack.enter_context(closing(open_shared_pool(session, local=True)))
    return stack.enter_context(starting(partial(open_shared_pool, session)))


def _run(session: Session, pool: Any, on_event: OnEvent, *, local: bool) -> None:
    if local:
        conduct(session, lend(pool, session), on_event)
    else:
        run_flow(session, on_event, lambda: lend(pool.result(), session))


def _ended(entry: Entry, session: Session) -> Entry:
    problems = "; ".join(session.problems)
    return replace(
        entry,
        missing=len(session.missing),
        complete=session.is_complete,
        error=problems if not session.is_complete and not session.missing else "",
    )


def _verdict(entry: Entry) -> str:
    if entry.error:
        return f"{entry.name}: {entry.error}"
    return f"{entry.name}: {entry.missing} items are missing; next: circuits failures {entry.run}"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, CircuitsError | OSError):
        return text or type(error).__name__
    traceback.print_exception(error)  # a bug, or a service that is gone: the log keeps where
    return f"unexpected {type(error).__name__}: {text}"


def _tell(entry: Entry) -> None:
    facts = {key: value for key, value in asdict(entry).items() if key not in ("kin", "bytes_per_worker")}
    print(MARK + json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main())
