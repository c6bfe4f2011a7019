"""Ends a helper of this process when this process is gone, also by kill -9, which nothing here can hear.

Knows pipes and pids: a guard reads from a pipe that only this process holds, and wakes when it closes. Does not know
what is guarded.
"""

import atexit
import subprocess
import sys

# In a process of its own, which imports next to nothing. A pid may be another process's by then: when it was started
# tells (/proc; elsewhere the pid has to do).
_GUARD = """
import os, signal, sys, time

def born():
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""

def tell(number):
    if born() != since:
        sys.exit()
    os.kill(pid, number)

pid = int(sys.argv[1])
since = born()
print(flush=True)
sys.stdin.buffer.read()
tell(signal.SIGTERM)
for _ in range(50):
    time.sleep(0.1)
    tell(0)
tell(signal.SIGKILL)
"""

_guards: "dict[int, subprocess.Popen[bytes]]" = {}


def guard(pid: int) -> None:
    """Has a process ended as soon as this one is gone: told to end, and killed after 5 s. Once for each."""
    if pid in _guards:
        return
    watch = subprocess.Popen(  # noqa: S603 - our own script and a number
        [sys.executable, "-I", "-S", "-c", _GUARD, str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what a terminal tells its processes is not for it
    )
    assert watch.stdout is not None
    watch.stdout.readline()  # it is on its post
    watch.stdout.close()
    _guards[pid] = watch


@atexit.register  # registered on import, before what is guarded: so it comes after that has ended by itself
def _dismiss() -> None:
    for watch in _guards.values():
        assert watch.stdin is not None
        watch.stdin.close()
    for watch in _guards.values():
        watch.wait()
    _guards.clear()
