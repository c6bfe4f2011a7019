"""What tests of hostile run directories share: the verbs that read one, and a way to change its JSON."""

import json
from pathlib import Path

READERS = {
    "status": ("status",),
    "show": ("show",),
    "report": ("report",),
    "export": ("export", "--format", "csv"),
    "failures": ("failures",),
    "resume": ("resume", "--local"),
}
BAD_ID = "../../../outside/x"
SHARD = "scores/task=induction/method=eap/shard-00000.parquet"


def call(circuits, verb: str, run: Path):
    first, *rest = READERS[verb]
    return circuits(first, run, *rest)


def edit(path: Path, **changes) -> None:
    """Sets keys such as `identity__seed`; `...` removes one."""
    whole = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        holder = whole
        for parent in parents:
            holder = holder[parent]
        if value is ...:
            del holder[last]
        else:
            holder[last] = value
    path.write_text(json.dumps(whole))
