"""Where a run lies: a folder of this machine, or a prefix in an S3-compatible store; both read like a `pathlib.Path`.

Knows addresses, and what differs between files and objects (`objects`). Does not know what is written, nor how it
becomes durable (`pipeline.store.place.atomic`).

An address such as `s3://bucket/circuits` names no key and no secret: these come from the standard AWS_*
environment, or from where AWS's own tools keep them, on every machine that opens it. A store other than Amazon's is
named by AWS_ENDPOINT_URL or by `s3://bucket/circuits?endpoint_override=http://127.0.0.1:9000`.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pipeline.core.errors import ConfigError
from pipeline.store.place.objects import ObjectPath, Store

T = TypeVar("T")
R = TypeVar("R")

BAD = "_bad-"

_TOGETHER = 16  # requests at a time: a store answers many as fast as one
_OPTIONS = ("endpoint_override", "region", "scheme")


Place: TypeAlias = Path | ObjectPath


def place(address: str | Place) -> Place:
    """The folder or the prefix of a store at an address. ConfigError for one that means nothing, or holds a secret."""
    if not isinstance(address, str):
        return address
    scheme, separator, _ = address.partition("://")
    if not separator:
        return Path(address)
    if scheme != "s3":
        raise ConfigError(f"{scheme[:20]}://...: give a folder, or s3://bucket/folder")
    parts = urlsplit(address)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    endpoint = query.get("endpoint_override", "")
    if "@" in parts.netloc + endpoint or {*query} & {"access_key", "secret_key", "session_token"}:
        raise ConfigError(
            "s3://...: an address holds no credentials, for it is written into the run; take them out and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )
    if unknown := sorted({*query} - {*_OPTIONS}):
        raise ConfigError(
            f"s3://{parts.netloc}{parts.path}: unknown {unknown[0][:20]!r}; known: {', '.join(_OPTIONS)}"
        )
    if not parts.netloc or parts.fragment:
        raise ConfigError("s3://...: write it as s3://bucket/folder")
    if endpoint and "://" not in endpoint:
        endpoint = f"{query.get('scheme', 'https')}://{endpoint}"
    key = PurePosixPath(parts.netloc, parts.path.strip("/"))
    if ".." in key.parts:
        raise ConfigError(f"s3://{key}: '..' means nothing in a store; write the prefix out")
    return ObjectPath(key, Store(endpoint or None, query.get("region")))


# --- what differs by kind ----------------------------------------------------------------------------------


def open_input(path: Place) -> Any:
    """A file as pyarrow reads it, in the parts that it asks for. Raises FileNotFoundError."""
    import pyarrow as pa

    if isinstance(path, Path):
        return pa.OSFile(str(path))
    return pa.PythonFile(path.open("rb"), mode="r")


@contextmanager
def as_file(path: Place) -> Iterator[Path]:
    """The file on this machine, for libraries that take nothing else; a copy of an object lasts as the block does."""
    if isinstance(path, Path):
        yield path
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="circuits-") as folder:
        copy = Path(folder, path.name)
        copy.write_bytes(path.read_bytes())
        yield copy


def found(folder: Place, pattern: str) -> list[Place]:
    """The files below a folder that match a glob, sorted; none where there is no folder."""
    paths: Iterable[Place] = folder.glob(pattern)
    return sorted((path for path in paths if isinstance(path, ObjectPath) or path.is_file()), key=str)


def relative(path: Place, folder: Place) -> PurePosixPath:
    """The name of what lies below a folder, as seen from there."""
    pure, above = (one if isinstance(one, Path) else one.key for one in (path, folder))
    return PurePosixPath(pure.relative_to(above))


def each(path: Place, function: Callable[[T], R], values: Iterable[T]) -> Iterator[R]:
    """`function` of every value, in order: one after the other on a disk, many at a time in a store."""
    if isinstance(path, Path):
        yield from map(function, values)
        return
    with ThreadPoolExecutor(_TOGETHER, thread_name_prefix="store") as threads:
        yield from threads.map(function, values)


def remedy(path: Place) -> str:
    """What a person does when nothing more can be written there."""
    if isinstance(path, Path):
        return f"no space left on the device of {path}: free some space"
    return f"{path} can no longer be written: mend what `circuits failures` names"
