"""In which order jobs are handed out, and what an exception means for further attempts."""

import errno

import pytest

from pipeline.core.errors import PromptError
from pipeline.workers.jobs import Failure, Queue, failure_kind
from tests.workers.trivial import Deed

JOBS = [Deed(f"{shard}{method}", shard=shard) for method in "ab" for shard in range(3)]  # 0a 1a 2a 0b 1b 2b


def test_a_free_worker_goes_where_no_other_worker_is():
    queue = Queue(JOBS)
    assert queue.take(None, set()).name == "0a"
    assert queue.take(None, {("t", 0)}).name == "1a"
    assert queue.take(("t", 0), {("t", 1)}).name == "0b", "its own shard first"
    assert queue.take(("t", 0), {("t", 1)}).name == "2a", "then one that nobody works on"


def test_nobody_idles_while_there_is_work():
    queue = Queue(JOBS[:1] + JOBS[3:4])
    assert queue.take(None, set()).name == "0a"
    assert queue.take(None, {("t", 0)}).name == "0b", "even in another worker's shard"
    assert not queue


def test_a_job_that_is_put_back_comes_first_again():
    queue = Queue(JOBS)
    job = queue.take(None, set())
    queue.put_back(job)
    assert queue.take(None, set()) == job


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PromptError("bad"), "input"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage"),
        (RuntimeError("writer: [Errno 28] No space left on device"), "storage"),
        (OSError(errno.ENOENT, "gone"), "error"),
        (OSError(errno.EIO, "Input/output error"), "io"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "io"),
        (MemoryError(), "error"),
    ],
)
def test_an_exception_says_whether_another_attempt_can_help(error, kind):
    assert failure_kind(error) == kind


def test_a_full_disk_is_found_behind_another_exception():
    error = RuntimeError("could not commit")
    error.__cause__ = OSError(errno.ENOSPC, "full")
    assert failure_kind(error) == "storage"


def test_a_failure_always_has_a_message():
    assert Failure.of(MemoryError()).message == "MemoryError"
