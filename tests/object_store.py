"""An S3-compatible store of this machine for tests: moto's server in a process of its own.

`python -m tests.object_store [--fail SHARE] [--closed]` serves until it is killed and prints its port. With a share,
that part of all writes is answered as a store does that is overloaded, the first of them included. A closed store
answers nobody without the key.
"""

import argparse
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from pipeline.store.place.objects import ObjectPath
from pipeline.store.place.where import place

BUCKET = "circuits"
KEYS = {  # nobody's: a person's own keys are not used by any test
    "AWS_ACCESS_KEY_ID": "test-key-4c1f",
    "AWS_SECRET_ACCESS_KEY": "test-secret-93ab",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def serving(fail: float = 0.0, *, closed: bool = False) -> Iterator[ObjectPath]:
    """A bucket of a server that runs while the block does."""
    command = [sys.executable, "-m", "tests.object_store", "--fail", str(fail), *["--closed"] * closed]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = int(server.stdout.readline())
        yield place(f"s3://{BUCKET}?endpoint_override=http://127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def folder_in(bucket: ObjectPath) -> ObjectPath:
    """A prefix that nothing else uses."""
    return bucket / uuid4().hex[:12]


# --- the server --------------------------------------------------------------------------------------------

Answer = Callable[[str, list[tuple[str, str]]], Any]
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


def main() -> None:
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    parser = argparse.ArgumentParser()
    parser.add_argument("--fail", type=float, default=0.0)
    parser.add_argument("--closed", action="store_true")
    share, closed = vars(parser.parse_args()).values()
    store = DomainDispatcherApplication(create_backend_app)
    rng = random.Random(0)
    failing = {"now": False}
    writes = {"first": True}

    def application(environ: dict[str, Any], answer: Answer) -> Iterable[bytes]:
        if closed and KEYS["AWS_ACCESS_KEY_ID"] not in environ.get("HTTP_AUTHORIZATION", ""):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            answer("403 Forbidden", [("Content-Type", "application/xml")])
            return [DENIED]
        if failing["now"] and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            fails = rng.random() < share or writes.pop("first", False)
            if fails:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                answer("503 Slow Down", [("Content-Type", "application/xml")])
                return [SLOW_DOWN]
        return store(environ, answer)

    server = make_server("127.0.0.1", 0, application, threaded=True)
    import threading

    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{server.server_port}",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    failing["now"] = share > 0
    print(server.server_port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
