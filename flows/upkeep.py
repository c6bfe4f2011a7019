"""The verbs that look after what lies on a disk or in a store: gc, verify, compact.

Knows options, words and exit codes. Does not know files.
"""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

app = typer.Typer()

RunFolder = Annotated[str, typer.Argument(help="run directory, or its s3:// address", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="data as JSON on stdout")]

DAMAGED = 3


@app.command()
def gc(
    folder: Annotated[str, typer.Argument(help="run directory, or a folder with runs", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="only say what would go")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what dead writers left: temporary files, files set aside as damaged, stale locks."""
    from flows.writing import count, size
    from pipeline.store.run.leftovers import sweep

    swept = sweep(folder, dry_run=dry_run)
    runs = [{"run": one.run, "left_alone": one.left_alone, "files": dict(one.files)} for one in swept]
    lines = []
    for one in swept:
        if one.left_alone:
            lines.append(f"{one.run}: left alone, {one.left_alone}")
        lines += [f"{one.run}: {name}, {size(n_bytes)}" for name, n_bytes in one.files]
    files = [n_bytes for one in swept for _, n_bytes in one.files]
    what = "would be removed" if dry_run else "removed"
    lines.append(f"{count(len(files))} files, {size(sum(files))}, {what}")
    _tell({"dry_run": dry_run, "runs": runs}, lines, as_json=as_json)


@app.command()
def compact(folder: RunFolder, as_json: AsJson = False) -> None:
    """Merge the many files of a complete run into few; no result changes."""
    from dataclasses import asdict

    from flows.writing import count
    from pipeline.store.run.compact import compact as compact_run

    done = compact_run(folder)
    words = f"{count(done.files)} files became {count(done.packs)} in {done.run}"
    _tell(asdict(done), [words], as_json=as_json)


@app.command()
def verify(folder: RunFolder, as_json: AsJson = False) -> None:
    """Read every file of a run and compare footers, page checksums, values and row counts."""
    from flows.writing import count
    from pipeline.verify import lines, to_dict
    from pipeline.verify import verify as verify_run

    verified = verify_run(folder)
    words = f"{count(verified.files)} files, {count(len(verified.damaged))} damaged"
    if verified.missing:
        words += f", {count(verified.missing)} of {count(verified.items)} items not there yet"
    _tell(to_dict(verified), [*lines(verified), words], as_json=as_json)
    raise typer.Exit(DAMAGED if verified.damaged else 0)


def _tell(facts: dict[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """What was done, as data or in words."""
    from flows.writing import say

    if as_json:
        print(json.dumps(facts, indent=1))
    else:
        for line in lines:
            say(line)
