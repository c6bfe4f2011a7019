"""Objects of an S3-compatible store, with the methods of `pathlib.Path` that a run needs.

Knows `pyarrow.fs`, keys and what a store's refusal means. Does not know addresses as people write them (`where`), nor
what is written.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import PurePosixPath
from socket import gethostname
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import quote

from pipeline.core.errors import StorageError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

_ATTEMPTS = 6  # per request, by the client itself, with growing pauses: some 15 s in all
_SOURCES = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")  # of keys
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class Stat(NamedTuple):
    """What is known of an object without reading it."""

    st_size: int
    st_mtime: float
    st_mtime_ns: int


@dataclass(frozen=True)
class Store:
    """Which store a bucket is in; None: what the environment says."""

    endpoint: str | None = None
    region: str | None = None

    @property
    def filesystem(self) -> "FileSystem":
        return _connect(self.endpoint, self.region)


@dataclass(frozen=True)
class ObjectPath:
    """A key in a bucket, or all keys below it, with the methods of `pathlib.Path` that a run needs.

    There are no folders to make, and no rename that is one step. Requests that fail are tried again; what fails for
    good is a StorageError, what is not there a FileNotFoundError. Pickled as its address: who opens it brings
    credentials of their own.
    """

    key: PurePosixPath  # with the bucket as its first part
    store: Store = Store()

    def __str__(self) -> str:
        query = {"endpoint_override": self.store.endpoint, "region": self.store.region}
        options = "&".join(f"{name}={quote(value, safe=':/[]')}" for name, value in query.items() if value)
        return f"s3://{self.key}" + (f"?{options}" if options else "")

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __lt__(self, other: "ObjectPath") -> bool:
        return self.key < other.key

    def __reduce__(self) -> tuple[Any, ...]:
        from pipeline.store.place.where import place

        return place, (str(self),)

    # --- names -------------------------------------------------------------------------------------------

    def __truediv__(self, more: str | PurePosixPath) -> "ObjectPath":
        return ObjectPath(self.key / more, self.store)

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def suffix(self) -> str:
        return self.key.suffix

    @property
    def parent(self) -> "ObjectPath":
        return ObjectPath(self.key.parent, self.store)

    def with_name(self, name: str) -> "ObjectPath":
        return ObjectPath(self.key.with_name(name), self.store)

    def absolute(self) -> "ObjectPath":
        return self

    # --- what is there -----------------------------------------------------------------------------------

    def exists(self) -> bool:
        return self._info().type.name != "NotFound"

    def is_file(self) -> bool:
        return self._info().type.name == "File"

    def is_dir(self) -> bool:
        """Whether there are keys below this one."""
        return self._info().type.name == "Directory"

    def stat(self) -> Stat:
        info = self._info()
        if info.type.name == "NotFound":
            raise FileNotFoundError(f"{self}: no such object")
        when = info.mtime_ns or 0
        return Stat(info.size or 0, when / 1e9, when)

    def iterdir(self) -> Iterator["ObjectPath"]:
        """Objects and prefixes directly below."""
        for info in self._list(recursive=False):
            yield ObjectPath(PurePosixPath(info.path), self.store)

    def times_below(self, name: str) -> dict[str, float]:
        """Names of the objects directly below `name`, and when each was written: one listing."""
        listed = (self / name)._list(recursive=False)  # noqa: SLF001 - of this class
        return {info.base_name: (info.mtime_ns or 0) / 1e9 for info in listed if info.type.name == "File"}

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Objects, not prefixes, whose key below this one matches; one listing."""
        for info in self._list(recursive=True):
            key = PurePosixPath(info.path)
            if info.type.name == "File" and _matches(
                key.relative_to(self.key).parts, PurePosixPath(pattern).parts
            ):
                yield ObjectPath(key, self.store)

    def rglob(self, pattern: str) -> Iterator["ObjectPath"]:
        return self.glob(f"**/{pattern}")

    def _info(self) -> "FileInfo":
        with _told(self):
            return self.store.filesystem.get_file_info(str(self.key))

    def _list(self, *, recursive: bool) -> "list[FileInfo]":
        from pyarrow.fs import FileSelector

        with _told(self):
            selector = FileSelector(str(self.key), allow_not_found=True, recursive=recursive)
            return self.store.filesystem.get_file_info(selector)

    # --- contents ----------------------------------------------------------------------------------------

    def open(self, mode: Literal["rb"]) -> io.BufferedReader:  # noqa: ARG002 - as of a file; there is no other
        """The object as a file that is read here and there."""
        return io.BufferedReader(_Ranges(self), 1 << 16)

    def read_bytes(self) -> bytes:
        with _told(self), self.store.filesystem.open_input_stream(str(self.key)) as stream:
            return bytes(stream.read())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> int:
        """One put under the final key: readers see the old object or all of the new one."""
        return self.put(io.BytesIO(content), len(content))

    def write_text(self, content: str, encoding: str = "utf-8") -> int:
        return self.write_bytes(content.encode(encoding))

    def put(self, source: io.BufferedIOBase, size: int) -> int:
        """Writes `size` bytes of `source`, several parts of one upload where they are many; returns their number.

        A stream that could not be written can still leave a short object behind, for its client closes it whatever
        happens: what is there is compared, and a short object removed.
        """
        try:
            with _told(self), self.store.filesystem.open_output_stream(str(self.key)) as stream:
                while part := source.read(1 << 24):
                    stream.write(part)
        except StorageError:
            with suppress(OSError):
                if self.stat().st_size != size:
                    self.unlink()
            raise
        if (found := self.stat().st_size) != size:
            self.unlink(missing_ok=True)
            raise StorageError(f"{self}: the store has {found} of {size} bytes that were written")
        return size

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with _told(self):
                self.store.filesystem.delete_file(str(self.key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rename(self, target: "ObjectPath") -> "ObjectPath":
        """Copies and deletes: killed between the two it leaves both."""
        with _told(self):
            self.store.filesystem.copy_file(str(self.key), str(target.key))
        self.unlink(missing_ok=True)
        return target


class _Ranges(io.RawIOBase):
    """An object as a file that is read here and there. Its errors are ours: never taken for those of a parser."""

    def __init__(self, path: ObjectPath) -> None:
        self._path, self._at = path, 0
        with _told(path):
            self._file = path.store.filesystem.open_input_file(str(path.key))
            self._size = self._file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        with _told(self._path):
            found = self._file.read_at(max(0, min(len(buffer), self._size - self._at)), self._at)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


@cache
def _connect(endpoint: str | None, region: str | None) -> "FileSystem":
    """The client of a store; a process keeps one of each."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    url = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    scheme, _, host = url.rpartition("://")
    return S3FileSystem(
        endpoint_override=host.rstrip("/") or None,
        scheme=scheme or "https",
        region=region,
        connect_timeout=10,
        allow_delayed_open=True,  # a small object is one request
        background_writes=False,  # an upload that fails says so where it is written
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )


@contextmanager
def _told(path: ObjectPath) -> Iterator[None]:
    """A client's error as one line that names the object and no secret; what is not there stays FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, StorageError):
        raise
    except OSError as error:
        text = " ".join(str(error).split())
        if "NO_SUCH_KEY" in text:
            raise FileNotFoundError(f"{path}: no such object") from None
        reason = text[max(0, text.find("AWS Error")) :][:200]
        for secret in filter(None, map(os.environ.get, _SECRETS)):
            reason = reason.replace(secret, "***")
        raise StorageError(f"{path}: the store has refused ({reason}); {_mend(text)}") from None


def _mend(reason: str) -> str:
    """What a person does about a refusal; where no key is in the environment, that is told first."""
    if "ACCESS_DENIED" in reason and not any(os.environ.get(name) for name in _SOURCES):
        return (
            f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on {gethostname()}, and for a run on a cluster in the "
            "environment that every node of it is started with"
        )
    return "check the bucket and the AWS_* environment, and try again"


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a key matches a glob, part by part."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
