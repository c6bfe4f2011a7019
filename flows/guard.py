"""Starts a helper that ends when this process is gone, also by kill -9, which nothing here can hear.

Knows pipes: a guard stands between this process and the helper, and reads from a pipe that only this process holds.
It is there before the helper is, so that no moment is without it. Does not know what is guarded.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

# In a process of its own, which imports next to nothing. What it starts writes files for this user alone.
_GUARD = """
import json, os, subprocess, sys, threading

line = sys.stdin.buffer.readline()
if not line.endswith(b"\\n"):
    sys.exit()
words, fds = json.loads(line)
os.umask(0o077)
helper = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=fds)
for fd in fds:
    os.close(fd)

def follow():
    helper.wait()
    os._exit(0)

threading.Thread(target=follow, daemon=True).start()
sys.stdin.buffer.read()
helper.terminate()
try:
    helper.wait(5)
except subprocess.TimeoutExpired:
    helper.kill()
    helper.wait()
"""


def guarded(
    words: Sequence[str], environment: Mapping[str, str] | None = None, fds: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Starts the command, with these open files, and returns its guard, which ends when the helper does. The helper is
    told to end, and killed after 5 s, as soon as the guard's stdin is closed: by `release`, or by our death."""
    guard = subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-I", "-S", "-c", _GUARD],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        pass_fds=fds,
        start_new_session=True,  # what a terminal tells its processes is not for it
    )
    assert guard.stdin is not None
    guard.stdin.write(json.dumps([list(words), list(fds)]).encode() + b"\n")
    guard.stdin.flush()
    return guard


def release(guard: "subprocess.Popen[bytes]") -> None:
    """Has the helper end; returns when both are gone."""
    assert guard.stdin is not None
    guard.stdin.close()
    guard.wait()
