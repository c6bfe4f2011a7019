"""What somebody may have meant who names a folder that is no run: the runs in it, and those whose name begins so.

Knows names and manifests' places on a disk. Reads none of them; an object store is not searched.
"""

from collections.abc import Iterable
from pathlib import Path

from pipeline.core.documents import looked_in
from pipeline.core.errors import RunDirectoryError
from pipeline.store.place.where import Place

RUNS = "results"  # where runs lie unless a config says otherwise
NAMED = 4  # more would be no line any more


def refuse_what_is_no_run(path: Place) -> None:
    """RunDirectoryError for what is not there, or is a folder of runs, with the runs that may be meant; nothing for any
    other folder."""
    if not path.is_dir():
        near = _beginning(path) if isinstance(path, Path) else []
        mend = f"did you mean {_names(near)}?" if near else "`circuits run CONFIG` makes one"
        raise RunDirectoryError(f"{path}: no such run directory{looked_in(path)}; {mend}")
    if (
        isinstance(path, Path)
        and not (path / "manifest.json").exists()
        and (inside := _newest(path.iterdir()))
    ):
        raise RunDirectoryError(
            f"{path}: holds runs and is none itself{looked_in(path)}; name one: {_names(inside)}"
        )


def _beginning(path: Path) -> list[Path]:
    """Runs whose name begins as the path's, in the folder that it names and in that where runs lie by default."""
    folders = dict.fromkeys((path.parent, path.parent / RUNS))
    found = [one for folder in folders if folder.is_dir() for one in folder.glob(f"{_literal(path.name)}*")]
    return _newest(found)


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _newest(paths: Iterable[Path]) -> list[Path]:
    """The runs among them, the one planned last first."""
    runs = [path for path in paths if (path / "manifest.json").is_file()]
    return sorted(runs, key=lambda run: (-(run / "manifest.json").stat().st_mtime, str(run)))


def _names(runs: list[Path]) -> str:
    more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
    return ", ".join(map(str, runs[:NAMED])) + more
