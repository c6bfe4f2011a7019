"""What dead writers leave in a run directory, and taking it away.

Knows temporary files, files that were set aside, and locks. Does not know items, and never touches a run that a live
process owns.

In a store an upload that was cut off leaves parts that no listing shows: a rule of the bucket for incomplete uploads
removes them.
"""

from dataclasses import dataclass

from pipeline.core.errors import RunDirectoryError, StorageError
from pipeline.store.place.atomic import RESERVE, TEMPORARY, is_stale, remove
from pipeline.store.place.links import refuse_ways_out
from pipeline.store.place.lock import LOCK_NAME, at_work, lock_files, locked, read_owner
from pipeline.store.place.where import BAD, Place, found, place, relative

_LEFT = (f"**/.*{TEMPORARY}*", f"**/{BAD}*", RESERVE, f"{LOCK_NAME}-clock-*")


@dataclass(frozen=True)
class Swept:
    """What was found in a run that can go (name and bytes), or why the run was left alone."""

    run: str
    files: tuple[tuple[str, int], ...] = ()
    left_alone: str | None = None


def sweep(address: str | Place, *, dry_run: bool = False) -> list[Swept]:
    """Removes (with `dry_run` only finds) what is left over in a run, or in every run of a folder.

    Temporary files go when they are an hour old, for their writers may live on another machine; a lock goes when its
    owner is dead. Raises RunDirectoryError where there is no run.
    """
    folder = place(address)
    runs = [folder] if is_run(folder) else runs_in(folder)
    if not runs:
        raise RunDirectoryError(f"{folder}: no run directory, and none in it; check the path")
    return [_sweep(run, dry_run) for run in runs]


def runs_in(folder: Place) -> list[Place]:
    """The runs that lie in a folder, also those that cannot be read."""
    return sorted(filter(is_run, _folders(folder)), key=str)


def is_run(folder: Place) -> bool:
    """Whether a folder is a run, or may be one that cannot be looked into."""
    try:
        return any((folder / name).is_file() for name in ("manifest.json", "run.yaml", LOCK_NAME))
    except StorageError:
        raise
    except OSError:
        return True


def _folders(folder: Place) -> list[Place]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _sweep(run: Place, dry_run: bool) -> Swept:
    """One that cannot be read is left alone, and the others are gone through."""
    try:
        refuse_ways_out(run)
        return _swept(run, dry_run)
    except StorageError:
        raise
    except (RunDirectoryError, OSError) as error:
        return Swept(str(run), left_alone=str(error).removeprefix(f"{run}: "))


def _swept(run: Place, dry_run: bool) -> Swept:
    if dry_run:
        if owner := at_work(run):
            return Swept(str(run), left_alone=f"process {owner.pid} on {owner.host} is at work on it")
        locks = lock_files(run) if read_owner(run) is not None else []
        return Swept(str(run), _sizes(run, [*_leftovers(run), *locks]))
    stale = _sizes(run, lock_files(run))
    with locked(run):  # takes over from a dead owner, and takes the lock away at the end
        paths = _leftovers(run)
        files = (*_sizes(run, paths), *stale)
        for path in paths:
            remove(path)
    return Swept(str(run), files)


def _leftovers(run: Place) -> list[Place]:
    paths = {path for pattern in _LEFT for path in found(run, pattern)}
    return sorted(filter(_may_go, paths), key=str)


def _may_go(path: Place) -> bool:
    try:
        return TEMPORARY not in path.name or is_stale(path)
    except FileNotFoundError:
        return False


def _sizes(run: Place, paths: list[Place]) -> tuple[tuple[str, int], ...]:
    """Names in the run and bytes, of those that are there."""
    sizes = []
    for path in paths:
        try:
            sizes.append((str(relative(path, run)), path.stat().st_size))
        except FileNotFoundError:
            continue
    return tuple(sizes)
