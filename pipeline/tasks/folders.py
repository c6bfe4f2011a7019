"""Rows of a dataset's folder as the `datasets` library saves it: Arrow files and a list of them.

Knows `state.json` and Arrow streams, read with pyarrow alone. Does not know what the fields mean.
"""

from collections.abc import Generator
from pathlib import Path

from pipeline.core.documents import parse_json
from pipeline.core.errors import PromptError
from pipeline.core.file_sizes import too_much
from pipeline.tasks.reader import MOST_LINE, ROWS, Row

LIST, SPLITS = "state.json", "dataset_dict.json"


class Folder:
    """The rows of a dataset in a folder. PromptError for a folder that is none."""

    spells = False  # every value has its type

    def __init__(self, path: Path) -> None:
        self.path = path
        self.share = 0.0  # of the files that have been read
        if (path / SPLITS).is_file():
            splits = sorted(one.name for one in path.iterdir() if (one / LIST).is_file())
            raise PromptError(
                f"{path}: a dataset of several splits; name one of them: {', '.join(splits) or 'none is there'}"
            )
        if not (path / LIST).is_file():
            raise PromptError(
                f"{path}: a folder, not a file; name a file in it, or a dataset that save_to_disk wrote"
            )
        self._files = _files(path)

    def rows(self) -> Generator[tuple[str, Row], None, None]:
        """("folder:number", row) of every row, from 1."""
        import pyarrow as pa

        number = 0
        for done, file in enumerate(self._files, start=1):
            try:
                with file.open("rb") as opened, pa.ipc.open_stream(opened) as stream:
                    for batch in stream:
                        if problem := too_much({"rows": batch.num_rows}, file.stat().st_size):
                            raise PromptError(f"{file}: {problem}; save the dataset again")
                        for start in range(0, batch.num_rows, ROWS):
                            for row in batch.slice(start, ROWS).to_pylist():
                                number += 1
                                yield f"{self.path}:{number}", row
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise PromptError(
                    f"{file}: not a readable Arrow stream ({reason}); save the dataset again"
                ) from None
            self.share = done / len(self._files)


def _files(path: Path) -> list[Path]:
    """The Arrow files that the folder's list names, in order."""
    listed = path / LIST
    try:
        state = parse_json(listed.read_bytes()[: MOST_LINE + 1].decode())
        names = [entry["filename"] for entry in state["_data_files"]]
        elsewhere = [name for name in names if Path(name).name != name]
        shuffled = state.get("_indices_files")
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise PromptError(
            f"{listed}: lists no files of a dataset ({error}); save the dataset again"
        ) from None
    if elsewhere:
        raise PromptError(f"{listed}: names files elsewhere ({elsewhere[0][:60]!r}); save the dataset again")
    if shuffled:
        raise PromptError(
            f"{path}: rows are chosen by a list of indices; save dataset.flatten_indices() instead"
        )
    if missing := next((name for name in names if not (path / name).is_file()), None):
        raise PromptError(f"{path}: the file {missing!r} is missing; save the dataset again")
    return [path / name for name in names]
