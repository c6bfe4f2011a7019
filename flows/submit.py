"""`circuits submit`: configs to a cluster, and what to type next.

Knows what travels: the text of the configs and their prompt files. Does not know how a cluster runs them
(`flows.sweep`), nor Ray or Prefect beyond the calls of `pipeline.cluster.submission` and `flows.deployment`.
"""

import hashlib
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.core.errors import ConfigError

app = typer.Typer()

PATIENCE = 300.0  # seconds in which a submission should have planned its runs
PAUSE = 1.0  # seconds between two questions to the cluster
ERROR, MISSING = 1, 3
SLOW_START = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600"
}  # a busy head, and nobody who watches


class Target(StrEnum):
    """Who runs it."""

    ray = "ray"
    prefect = "prefect"


Facts = dict[str, Any]


@app.command()
def submit(
    configs: Annotated[list[Path], typer.Argument(help="YAML files of runs", show_default=False)],
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a field of every config")
    ] = [],  # noqa: B006
    to: Annotated[Target, typer.Option("--to", help="a Ray cluster, or a Prefect deployment")] = Target.ray,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="default: RAY_API_SERVER_ADDRESS, http://127.0.0.1:8265, or PREFECT_API_URL"
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="show the log, and end as the runs end")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="data as JSON on stdout")] = False,
) -> None:
    """Run configs on a cluster, as one piece of work: runs with the same model share their workers."""
    mappings = [_mapping(path, set_, to) for path in configs]
    facts = (
        _to_ray(mappings, address, wait=wait)
        if to is Target.ray
        else _to_prefect(mappings, address, wait=wait)
    )
    if as_json:
        print(json.dumps(facts, indent=1))
    else:
        _print(facts)
    if any(run["error"] for run in facts["runs"]):
        raise typer.Exit(ERROR)
    if wait and not all(run.get("complete", True) for run in facts["runs"]):
        raise typer.Exit(MISSING)


# --- what travels ------------------------------------------------------------------------------------------


def _mapping(path: Path, overrides: list[str], to: Target) -> Facts:
    """The config in plain data, checked; it is read by machines that have other folders."""
    from pipeline.config import RunConfig

    config = RunConfig.load(path, overrides).anchored()
    if "://" not in config.output and not Path(config.output).is_absolute():
        raise ConfigError(
            f"{path}: output: {config.output!r} is relative, and every node must see the same folder; give an "
            f"absolute path, --set output=/shared/{config.output}"
        )
    mapping = config.to_mapping()
    if to is Target.ray and config.cluster.address == "local":
        mapping["cluster"]["address"] = "auto"  # the cluster that the job runs in
    return mapping


def pack(mappings: list[Facts], folder: Path) -> list[str]:
    """Writes configs and their prompt files into a folder that goes with the job; returns the configs' names.

    With an output in an object store prompt files stay where they are: every node has to see them there.
    """
    import yaml

    names = []
    for index, mapping in enumerate(mappings):
        for task in mapping["tasks"]:
            path = Path(task.get("path", ""))
            if "://" not in mapping["output"] and path.is_file():
                content = path.read_bytes()
                kept = Path("inputs") / hashlib.sha256(content).hexdigest()[:16] / path.name
                (folder / kept).parent.mkdir(parents=True, exist_ok=True)
                (folder / kept).write_bytes(content)
                task["path"] = str(kept)
        names.append(f"config-{index:03d}.yaml")
        text = yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True)
        (folder / names[-1]).write_text(text, encoding="utf-8")
    return names


# --- Ray ---------------------------------------------------------------------------------------------------


def _to_ray(mappings: list[Facts], address: str | None, *, wait: bool) -> Facts:
    import os

    from flows.environment import VARIABLES
    from pipeline.cluster.submission import DEFAULT_ADDRESS, Cluster

    cluster = Cluster(address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)
    with tempfile.TemporaryDirectory(prefix="circuits-submit-") as folder:
        # Small Prefect servers of several jobs write to a database each: SQLite takes one writer at a time.
        own = 'PREFECT_HOME="$PWD/.prefect"'
        command = f"{own} {shlex.join(['python', '-m', 'flows.sweep', *pack(mappings, Path(folder))])}"
        job = cluster.submit(command, Path(folder), VARIABLES | SLOW_START)
    _say(f"job {job} at {cluster.address}")
    told = 0  # characters of the log that have been shown

    def look() -> tuple[list[Facts], str | None]:
        nonlocal told
        state = cluster.state(job)  # before the log: what it says at its end is then in the log
        log = cluster.log(job)
        if wait:
            for line in log[told:].splitlines():
                if not line.startswith(MARK):
                    _say(line)
            told = len(log)
        runs = [json.loads(line[len(MARK) :]) for line in log.splitlines() if line.startswith(MARK)]
        return runs, _ending(state.word, state.message, log) if state.is_over else None

    runs = _follow(look, len(mappings), wait=wait)
    stop = f"RAY_AUTH_MODE=token ray job stop --address {cluster.address} {job}"
    return {"job": job, "address": cluster.address, "runs": runs, "stop_all": stop}


def _ending(word: str, message: str, log: str) -> str:
    """Why a job that is over may have said nothing of its runs: the last thing that it printed."""
    lines = [line for line in (log or message).splitlines() if line.strip() and not line.startswith(MARK)]
    return f"the job has {word.lower()}: {lines[-1].strip() if lines else message or 'it printed nothing'}"


# --- Prefect -----------------------------------------------------------------------------------------------


def _to_prefect(mappings: list[Facts], address: str | None, *, wait: bool) -> Facts:
    from flows.environment import set_quiet_environment

    set_quiet_environment()
    from flows import deployment

    url = deployment.connect(address)
    flow_run = deployment.start(url, {"configs": mappings})
    _say(f"flow run {flow_run} at {url}")

    def look() -> tuple[list[Facts], str | None]:
        name, message, is_over = deployment.state(url, flow_run)
        runs: list[Facts] = [*deployment.runs(url, flow_run)]
        if is_over:
            runs = [run | {"complete": name == "Completed"} for run in runs]
        return runs, f"the flow run has ended as {name}: {message}" if is_over else None

    runs = _follow(look, len(mappings), wait=wait)
    stop = f"PREFECT_API_URL={url} prefect flow-run cancel {flow_run}"
    return {"job": flow_run, "address": url, "runs": runs, "stop_all": stop}


# --- both --------------------------------------------------------------------------------------------------


def _follow(look: Callable[[], tuple[list[Facts], str | None]], count: int, *, wait: bool) -> list[Facts]:
    """What is known of every run, once all are planned, or with `wait` once all have ended.

    Raises ConfigError when the work is over without a word about its runs.
    """
    end = time.monotonic() + PATIENCE
    try:
        while True:
            runs, ending = look()
            latest = {run.get("name", run.get("config", "")): run for run in runs}
            known = list(latest.values())
            if ending is not None:
                if len(known) < count and not any(run["error"] for run in known):
                    raise ConfigError(f"{ending}; is `circuits` in the cluster's environment?")
                return known
            if not wait and len(known) == count:
                return known
            if not wait and time.monotonic() > end:
                _say(f"nothing is planned after {PATIENCE:.0f} s; the cluster may be busy or have no worker")
                return known
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        _say("no longer watching; the work goes on")
        return [run | {"complete": False} for run in known]


def _print(facts: Facts) -> None:
    for run in facts["runs"]:
        if run["error"]:
            _say(f"error: {run.get('name') or run.get('config')}: {run['error']}")
            continue
        path = run["run"]
        print(f"run: {path}")
        for verb in ("status", "logs", "cancel"):
            print(f"  circuits {verb} {path}")
        if "://" not in path and not Path(path).is_dir():
            print("  (not to be seen from here: type these where its folder is mounted)")
    print(f"stop all of it: {facts['stop_all']}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


MARK = "circuits-run "  # as flows.sweep writes it; that module imports Prefect
