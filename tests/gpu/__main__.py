"""`python -m tests.gpu --device cuda|cpu --minutes 8`: every part in turn, within the minutes; a table and JSON.

Knows parts, their shares of the time and their processes. Imports neither torch nor what is measured.
"""

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.gpu import CARRIED, NO_DEVICE, READY, ROOT
from tests.gpu.record import Record, Row, line

# Shares of the time, most wanted first. What a part leaves goes to those after it.
PARTS = {
    "environment": 2,
    "parity": 8,
    "split": 2,
    "operations": 3,
    "memory": 3,
    "floors": 8,
    "largest": 3,
}
GRACE = 1.25  # a part stops between two cases; one that does not is killed at so many times its seconds
STARTING = 90.0  # seconds in which a part has imported what it needs, on the slowest disk


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu (small shapes)")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument(
        "--out", type=Path, help="folder of gpu.json and gpu.md; default: $OUT, else build/gpu/out"
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--families", nargs="+", default=[], help="of parity; default: all")
    parser.add_argument("--methods", nargs="+", default=[], help="of parity; default: all")
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=[],
        help="smollm2, 1b, 8b or tiny; default: all but tiny on cuda, tiny on cpu",
    )
    return parser.parse_args(words)


def budgets(seconds: float, parts: list[str], starting: float = 0.0) -> list[tuple[str, float]]:
    """What each part may take if all use theirs up, where every one of them needs `starting` seconds before."""
    whole = sum(PARTS[part] for part in parts)
    seconds = max(0.0, seconds - starting * len(parts))
    return [(part, seconds * PARTS[part] / whole) for part in parts]


def run_part(
    name: str, seconds: float, left: float, asked: argparse.Namespace, record: Record
) -> tuple[int, float]:
    """Adds the rows of a part as they come; one more where its process had to be killed, or died. Its exit code, and
    the seconds until it was ready."""
    chosen = {"families": asked.families, "methods": asked.methods, "shapes": asked.shapes}
    words = [sys.executable, "-m", "tests.gpu.part", name, asked.device, str(seconds), json.dumps(chosen)]
    start, limit = time.monotonic(), min(left, STARTING + GRACE * seconds)
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    late, starting = threading.Event(), 0.0

    def stop() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(limit, stop)
    timer.start()
    assert child.stdout is not None
    try:
        for text in child.stdout:
            found = json.loads(text)
            if found == READY:
                starting = time.monotonic() - start
                continue
            row = Row(**found)
            record.add(row)
            print(line(row), flush=True)
        code = child.wait()
    except BaseException:
        child.kill()
        raise
    finally:
        timer.cancel()
    if code not in (0, NO_DEVICE):
        said = f"killed after {limit:.0f} s" if late.is_set() else f"its process ended with {code}"
        if code < 0 and not late.is_set():
            said += f" ({signal.Signals(-code).name})"
        row = Row(
            "the rest of this part", note=said, verdict="skipped" if late.is_set() else "failed", part=name
        )
        record.add(row)
        print(line(row), flush=True)
    return code, starting


def main() -> int:
    asked = arguments()
    start = time.monotonic()
    folder = asked.out or Path(os.environ.get("OUT", CARRIED / "out"))
    command = f"`python -m tests.gpu {shlex.join(sys.argv[1:])}`"
    record = Record(folder, {command: "", "on Python": platform.python_version()})
    record.write()
    end = start + 60 * asked.minutes
    starting = 0.0
    for index, name in enumerate(asked.parts):
        left = end - time.monotonic()
        seconds = budgets(left, asked.parts[index:], starting)[0][1]
        if seconds <= 0:
            record.add(Row("all of this part", note="no time left", verdict="skipped", part=name))
            continue
        code, starting = run_part(name, seconds, left, asked, record)
        if code == NO_DEVICE:
            return 2
    counts = {verdict: sum(row.verdict == verdict for row in record.rows) for verdict in _verdicts(record)}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print(f"{said}; {time.monotonic() - start:.0f} s; {folder / 'gpu.md'}")
    return 1 if record.bad else 0


def _verdicts(record: Record) -> list[str]:
    return list(dict.fromkeys(row.verdict for row in record.rows))


if __name__ == "__main__":
    sys.exit(main())
