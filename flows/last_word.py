"""Says something when this process ends without a word of its own: killed, or ended by a library beneath it.

Ray's C++ part ends the process of a driver that asks a node which is gone, with code 1 and nothing said. Knows pipes: a
helper that imports nothing reads from one that only this process holds, and speaks when it breaks off. Does not know
runs.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

# The last whole line is what is to be said; an empty one, that all has been said.
_HELPER = """
import sys
word = b""
with open(0, "rb") as pipe:
    for line in pipe:
        word = line if line.endswith(b"\\n") else word
try:
    sys.stderr.buffer.write(word.strip() and word)
    sys.stderr.buffer.flush()
except OSError:
    pass
"""


_pipes: list[IO[bytes]] = []  # to the helper of this process


@contextmanager
def last_word(line: str) -> Iterator[None]:
    """Within it a death without a word has this line said on stderr; within another one, from then on instead of that
    one's."""
    if _pipes:
        _say(line)
        yield
        return
    helper = subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-I", "-S", "-c", _HELPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # what a terminal tells its processes is not for it
    )
    assert helper.stdin is not None
    _pipes.append(helper.stdin)
    try:
        _say(line)
        yield
    finally:
        _say("")
        _pipes.clear()
        with suppress(OSError):
            helper.communicate()


def _say(line: str) -> None:
    with suppress(OSError):  # somebody has ended the helper
        _pipes[0].write(line.encode() + b"\n")
        _pipes[0].flush()
