"""No way out of a run directory: links that lead elsewhere, and what is neither file nor folder.

Knows the local file system. Does not know what the files are.

What lies in a run directory may come from somebody else, in an archive or on a shared disk. A link in it could make
us read what is not part of the run, or overwrite and delete what is not ours; a pipe could make us wait forever.
Looked for when a run is opened and when it is locked: who may write into it while we do can write our results anyway.
"""

import os
from pathlib import Path

from pipeline.core.errors import RunDirectoryError
from pipeline.store.place.objects import ObjectPath
from pipeline.store.place.where import Place


def refuse_ways_out(folder: Place) -> None:
    """Raises RunDirectoryError for the first such entry; a link to a place within the folder is none, and a store has
    no links."""
    if isinstance(folder, ObjectPath):
        return
    root = folder.resolve()
    pending = [str(folder)]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except (FileNotFoundError, NotADirectoryError):  # gone while we look
            continue
        for entry in entries:
            if entry.is_symlink():
                target = Path(entry.path).resolve()
                if not target.is_relative_to(root):
                    raise RunDirectoryError(
                        f"{entry.path}: a link to {target}, outside of the run; remove it, or put a copy in its place"
                    )
            elif entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                raise RunDirectoryError(f"{entry.path}: neither a file nor a folder; remove it")
