"""The command line: words to calls of `pipeline`, results to stdout, progress to stderr, errors in one line.

Knows options and exit codes. Holds no logic; imports torch, Ray and Prefect only for verbs that compute.

Exit codes: 0 complete, 1 error, 2 usage or config, 3 some items are missing.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import comparing, operating, submit, upkeep
from flows.stopping import stoppable
from pipeline.core.errors import CircuitsError, ConfigError
from pipeline.core.text import printable

OK, ERROR, USAGE, MISSING, INTERRUPTED = 0, 1, 2, 3, 130
STOPPED = "stopped; the same command goes on where it was"

_ends_with_command: ContextVar[bool] = ContextVar("ends_with_command", default=False)

# What is left when such a process has said all that it had to say.
_until_said: ContextVar[contextlib.ExitStack | None] = ContextVar("until_said", default=None)

app = typer.Typer(
    name="circuits",
    help="Finds circuits in transformer language models: plan, run, read.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(comparing.app)
app.add_typer(operating.app)
app.add_typer(submit.app)
app.add_typer(upkeep.app)


class Format(StrEnum):
    """What `export` writes."""

    mib = "mib"
    csv = "csv"
    graphml = "graphml"
    dot = "dot"
    acdc = "acdc"
    auto_circuit = "auto_circuit"


def _print_version(asked: bool) -> None:
    if asked:
        import pipeline

        print(f"circuits {pipeline.__version__}")
        raise typer.Exit


@app.callback()
def circuits(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Finds circuits in transformer language models: plan, run, read."""


ConfigFile = Annotated[Path, typer.Argument(help="YAML file of the run", show_default=False)]
RunFolder = Annotated[str, typer.Argument(help="run directory, or its s3:// address", show_default=False)]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a field of the config")
]
AsJson = Annotated[bool, typer.Option("--json", help="data as JSON on stdout")]
RunDir = Annotated[str | None, typer.Option("--run-dir", help="where the run lies, instead of by name")]
Extend = Annotated[str | None, typer.Option("--extend", help="a run that gets these tasks and methods too")]
Local = Annotated[bool, typer.Option("--local", help="in this process: no Ray, no Prefect")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress: failures and how it ended")]
TaskId = Annotated[str | None, typer.Option("--task", help="only this task")]
MethodId = Annotated[str | None, typer.Option("--method", help="only this method")]


@app.command()
def plan(config: ConfigFile, set_: Overrides = [], as_json: AsJson = False, run_dir: RunDir = None) -> None:  # noqa: B006
    """Say what a run will do: items, prompts, edges, passes, rows, memory."""
    from flows import printing
    from flows.prompt_bar import reading
    from pipeline.config import RunConfig
    from pipeline.schedule import make_plan

    with reading():
        a_plan = make_plan(RunConfig.load(config, set_))
    facts = printing.plan_facts(a_plan, run_dir)
    _emit(facts, as_json, printing.print_plan)


@app.command()
def check(
    config: ConfigFile,
    set_: Overrides = [],  # noqa: B006
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="of each task, so many at most")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Try a config's tasks on its model: does it have the behaviours, and do the prompts show them?"""
    from flows.checked import print_check
    from flows.prompt_bar import reading
    from pipeline.checking import check as checked
    from pipeline.config import RunConfig

    with reading(), contextlib.redirect_stdout(sys.stderr):
        facts = checked(RunConfig.load(config, set_), prompts)
    _emit(facts, as_json, print_check)
    unused = any(one["verdict"] == "unused" for one in facts["tasks"].values())
    raise typer.Exit(ERROR if unused else OK)


@app.command()
def run(
    config: ConfigFile,
    set_: Overrides = [],  # noqa: B006
    run_dir: RunDir = None,
    extend: Extend = None,
    local: Local = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a config, or continue its run: only what is missing is computed."""
    from pipeline.config import RunConfig

    asked = RunConfig.load(config, set_)
    _spoken_for("the same command begins again")
    with contextlib.nullcontext() if local or extend else _on_its_way(asked, run_dir):
        _conduct(_prepared(lambda: asked, run_dir, extend, quiet), local, quiet, as_json)


@app.command()
def resume(
    folder: RunFolder,
    failed: Annotated[bool, typer.Option("--failed", help="also what had failed for good")] = False,
    set_: Overrides = [],  # noqa: B006
    local: Local = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Continue a run from its directory alone."""
    from flows.prompt_bar import reading
    from pipeline.schedule.preparing import resume as go_on

    with reading(quiet=quiet):
        session = go_on(folder, set_, retry_failed=failed)
    _conduct(session, local, quiet, as_json)


@app.command(name="import")
def import_(
    file: Annotated[
        str,
        typer.Argument(
            help=".json or .pt of EAP-IG, MIB, ACDC, auto-circuit; .csv: a row per edge", show_default=False
        ),
    ],
    config: ConfigFile,
    set_: Overrides = [],  # noqa: B006
    circuit: Annotated[
        bool, typer.Option("--circuit", help="judge the set of edges that it marks, not sizes by its scores")
    ] = False,
    alone: Annotated[bool, typer.Option("--alone", help="without the methods of the config")] = False,
    run_dir: RunDir = None,
    extend: Extend = None,
    local: Local = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Judge what somebody else found by a config's model, tasks and evaluations, beside the config's methods."""
    from pipeline.config import RunConfig

    def judging() -> RunConfig:
        return RunConfig.load(config, set_).with_file(file, circuit=circuit, alone=alone)

    _conduct(_prepared(judging, run_dir, extend, quiet), local, quiet, as_json)


@app.command()
def status(folder: RunFolder, as_json: AsJson = False) -> None:
    """Say what is done, what is missing, and who is at work."""
    from flows import printing
    from pipeline.store.run.opened import open_run

    facts = open_run(folder).status()
    _emit(facts, as_json, printing.print_status)
    raise typer.Exit(MISSING if facts["missing"] else OK)


@app.command()
def failures(folder: RunFolder, as_json: AsJson = False) -> None:
    """List failed attempts of missing items, and what to type next."""
    from flows import printing
    from pipeline.store.run.opened import open_run

    facts = printing.failure_facts(open_run(folder))
    _emit(facts, as_json, printing.print_failures)
    raise typer.Exit(MISSING if facts["missing"] else OK)


@app.command()
def show(
    folder: RunFolder,
    task: TaskId = None,
    method: MethodId = None,
    top: Annotated[int, typer.Option("--top", min=1, help="edges per task and method")] = 10,
    pareto: Annotated[bool, typer.Option("--pareto", help="size and worth of every circuit instead")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a run's essentials: facts, strongest edges with error bars, faithfulness, overlap of kept circuits."""
    from flows import printing
    from flows.pareto import pareto_facts, print_pareto
    from pipeline.store.run.opened import open_run

    if pareto:
        _emit(pareto_facts(open_run(folder), task, method), as_json, print_pareto)
        return
    _emit(printing.show_facts(open_run(folder), task, method, top), as_json, printing.print_show)


@app.command()
def report(folder: RunFolder, as_json: AsJson = False) -> None:
    """Write report.html anew, also of a run with missing items."""
    from pipeline.report.html import write_report
    from pipeline.store.run.opened import open_run

    run = open_run(folder)
    path = write_report(run, run.path / "report.html")
    _emit({"report": str(path)}, as_json, lambda facts: print(facts["report"]))


@app.command()
def export(
    folder: RunFolder,
    format_: Annotated[
        Format, typer.Option("--format", help="mib: EAP-IG and the MIB leaderboard; dot: graphviz")
    ],
    out: Annotated[str | None, typer.Option("--out", help="folder; default: export/ in the run")] = None,
    task: TaskId = None,
    method: MethodId = None,
    top: Annotated[int | None, typer.Option("--top", min=0, help="edges of the circuit")] = None,
    as_json: AsJson = False,
) -> None:
    """Write scores and circuits in other people's formats."""
    from flows import printing
    from pipeline.store.run.export import export as write
    from pipeline.store.run.opened import open_run

    run = open_run(folder)
    done = write(run, format_.value, out or run.path / "export", task=task, method=method, top=top)
    facts = {"files": [str(path) for path in done.paths], "notes": list(done.notes)}
    _emit(facts, as_json, printing.print_export)


@app.command(name="list")
def list_(
    folder: Annotated[str | None, typer.Argument(help="folder with runs", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List methods, tasks, metrics, ablations and models; or the runs in a folder."""
    from flows import listing

    if folder is None:
        _emit(listing.known_names(), as_json, listing.print_known_names)
    else:
        _emit(listing.runs_in(folder), as_json, listing.print_runs)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config, for editors."""
    from pipeline.config import RunConfig

    print(json.dumps(RunConfig.json_schema(), indent=1))


# --- running -----------------------------------------------------------------------------------------------


def _prepared(asked: Callable[[], Any], run_dir: str | None, extend: str | None, quiet: bool) -> Any:
    """The session of the config that is asked for, read while it is shown how far that is."""
    from flows.prompt_bar import reading
    from pipeline.schedule.preparing import prepare

    if run_dir is not None and extend is not None:
        raise ConfigError("--run-dir and --extend both say where the run lies; give one of them")
    with reading(quiet=quiet):
        return prepare(asked(), run_dir, extend)


def _on_its_way(config: Any, run_dir: str | None) -> contextlib.AbstractContextManager[None]:
    """Has Ray start while the run is planned, in a process that ends with its command: what planning refuses is said at
    once, and Ray goes after that."""
    if not _ends_with_command.get():
        return contextlib.nullcontext()
    from flows.environment import set_quiet_environment
    from pipeline.schedule.pools import on_its_way

    set_quiet_environment()
    return on_its_way(config, run_dir)


def _spoken_for(next_step: str) -> None:
    """Has somebody say what to type where this process, of this command alone, is ended without a word: until its own
    last word is said, errors among them."""
    if (said := _until_said.get()) is None:
        return
    from flows.last_word import last_word

    line = (
        "error: this process was ended from outside: killed, out of memory, or because a part of Ray on this machine "
        f"has ended beneath it; what has landed stays; {printable(next_step)}"
    )
    said.enter_context(last_word(line))


def _conduct(session: Any, local: bool, quiet: bool, as_json: bool) -> None:
    """Does what is left of a session, and ends with the exit code that its state means."""
    from flows import printing
    from flows.computing import computed

    _spoken_for(f"next: circuits resume {session.path}")
    with closing(session), stoppable():
        already = computed(session, local=local, quiet=quiet)
        facts = printing.run_facts(session, already)
    _emit(facts, as_json, printing.print_run)
    raise typer.Exit(OK if facts["complete"] else MISSING)


def _emit(facts: Any, as_json: bool, show: Any) -> None:
    if as_json:
        print(json.dumps(facts, indent=1, default=str))
    else:
        show(facts)


# --- errors ------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; errors that a person can mend are one line on stderr.

    Without `argv` that of the process, which ends with this command.
    """
    _ends_with_command.set(argv is None)
    with contextlib.ExitStack() as said:
        _until_said.set(said if argv is None else None)
        return _done(argv)


def _done(argv: Sequence[str] | None) -> int:
    """The exit code of one command, whose error is said."""
    try:
        with stoppable(last=argv is None):
            app(args=None if argv is None else list(argv), prog_name="circuits")
    except SystemExit as end:
        code = int(end.code or OK)
        if code == INTERRUPTED:  # typer has swallowed the KeyboardInterrupt
            _say(STOPPED)
        return code
    except KeyboardInterrupt:  # in place of what failed when the command was stopped
        _say(STOPPED)
        return INTERRUPTED
    except CircuitsError as error:
        _complain(error, str(error))
        return USAGE if isinstance(error, ConfigError) else ERROR
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(
            error, f"{where}{error.strerror or error}; check the path, its permissions and the space left"
        )
        return ERROR
    except Exception as error:  # noqa: BLE001 - a bug: one line, the rest on request
        _complain(error, f"unexpected {type(error).__name__}: {error} (CIRCUITS_DEBUG=1 keeps the traceback)")
        return ERROR
    return OK


def _complain(error: BaseException, message: str) -> None:
    _say(f"error: {' '.join(message.split())}")
    if os.environ.get("CIRCUITS_DEBUG"):
        path = Path(f"circuits-traceback-{os.getpid()}.txt")
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        _say(f"traceback: {path}")


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
