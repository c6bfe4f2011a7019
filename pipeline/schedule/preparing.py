"""Planning a run and taking its directory: new, gone on with, extended, or mended where its manifest is torn.

Knows configs, plans and who may own a directory. Does not know what is computed then.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.core.errors import CircuitsError, ConfigError, ModelError, PromptError, RunDirectoryError
from pipeline.schedule import Plan, Recorded, make_plan, recorded_prompts
from pipeline.schedule.control import Watch
from pipeline.schedule.session import Session
from pipeline.schedule.until import begin
from pipeline.store.place.atomic import set_reserve
from pipeline.store.place.where import Place, place, remedy
from pipeline.store.run.opened import open_run
from pipeline.store.run.planned import TornManifestError, recorded_key
from pipeline.store.run.run_dir import RunDirectory
from pipeline.tasks import FileTask
from pipeline.workers.jobs import failure_kind


def prepare(
    config: RunConfig,
    run_dir: str | Place | None = None,
    extend: str | Place | None = None,
    *,
    retry_failed: bool = False,
    recorded: bool = False,
) -> Session:
    """Plans the run and takes its directory, new or to be continued.

    `extend` names a run that gets the tasks and methods of `config` which it lacks. `retry_failed` forgets
    that items had failed for good. `recorded`: prompts of files are those that the run at `run_dir` has recorded.
    Raises a CircuitsError before anything is computed.
    """
    there = place(extend or run_dir or config.output)
    if extend is not None:
        with suppress(TornManifestError):
            RunDirectory.open(extend)  # says what is wrong with it, as to every verb
        config = RunConfig.load(there / "run.yaml").extended_by(config)

    def planned(config: RunConfig) -> Plan:
        prompts = recorded_prompts(there, config) if recorded or extend is not None else {}
        return make_plan(config, recorded=prompts if recorded else _without_file(config, prompts))

    plan = planned(config)
    path = place(extend or run_dir or plan.path)
    with ExitStack() as stack:
        try:
            hold = stack.enter_context(RunDirectory(path).lock())
            stack.enter_context(closing(Watch(path, hold.owner)))
            _mend(path, config)
            directory = plan.write(path, extend=extend is not None)
            if (
                directory.manifest["run_key"] != plan.run_key
            ):  # extended since: all of it, with today's settings
                plan = planned(RunConfig.load(path / "run.yaml").extended_by(config))
                directory = plan.write(path)
            if retry_failed:
                directory.clear_failures()
            begin(plan, directory)
            session = Session(plan, directory, stack)
            directory.mark_incomplete()  # until `finish`
            set_reserve(path)
        except OSError as error:
            if failure_kind(error) != "storage":
                raise
            raise RunDirectoryError(f"{remedy(path)}, and run again ({error})") from None
        session._lock = stack.pop_all()  # noqa: SLF001 - the session owns it from here on
    return session


def resume(folder: str | Place, overrides: Sequence[str] = (), *, retry_failed: bool = False) -> Session:
    """`prepare` for a run from its directory alone, whose manifest may be torn or gone. Needs neither the config's file
    nor those that the prompts came from."""
    path = place(folder)
    with suppress(TornManifestError):
        open_run(path)
    return prepare(RunConfig.resumed(path, overrides), path, retry_failed=retry_failed, recorded=True)


def _without_file(config: RunConfig, prompts: Mapping[str, Recorded]) -> dict[str, Recorded]:
    """Those of the recorded prompts whose file is not there any more."""
    paths = {id_: task.path for id_, task in config.task_ids.items() if isinstance(task, FileTask)}
    return {id_: tokens for id_, tokens in prompts.items() if not Path(paths[id_]).exists()}


def _mend(path: Place, config: RunConfig) -> None:
    """Writes the manifest of a run anew that is torn or gone, with all that planning writes, from its config, its
    prompts and its model. Leaves everything as it is where these make another run."""
    with suppress(CircuitsError):
        _ = RunDirectory(path).manifest
        return
    key = recorded_key(path)
    if key is None:
        return
    with suppress(ConfigError, PromptError, ModelError):
        own = RunConfig.load(path / "run.yaml")
        if own.model.trust_remote_code and not config.model.trust_remote_code:
            return
        plan = make_plan(own, recorded=recorded_prompts(path, own))
        if plan.run_key == key:
            plan.write(path)
