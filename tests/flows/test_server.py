"""A Prefect server that was asked for has to answer; else it is one line that names its address."""

import socket
import subprocess
import sys
from contextlib import closing

import pytest

from flows.server import ready
from pipeline.core.errors import ConfigError


@pytest.fixture
def named():
    """Names a server, as PREFECT_API_URL does."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def check(url):
        with temporary_settings({PREFECT_API_URL: url}), pytest.raises(ConfigError) as caught:
            ready()
        return str(caught.value)

    return check


def test_a_server_that_is_not_there_is_one_line_with_its_url_and_the_mend(named):
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/api"
        line = named(url)
    assert line.startswith(f"PREFECT_API_URL={url}: no Prefect server answers there (")
    assert "unset" in line
    assert "\n" not in line


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://127.0.0.1:99999/api"])
def test_what_is_no_address_is_one_line_too(named, url):
    line = named(url)
    assert line.startswith(f"PREFECT_API_URL={url}: ")
    assert "\n" not in line


@pytest.mark.parametrize(("status", "expected"), [(401, "set PREFECT_API_AUTH_STRING"), (404, "(404)")])
def test_a_server_that_is_none_or_refuses_is_told_apart(named, status, expected):
    code = (
        "import http.server as h\n"
        "class Handler(h.BaseHTTPRequestHandler):\n"
        f"    def do_GET(self): self.send_error({status})\n"
        "    def log_message(self, *_): pass\n"
        "server = h.HTTPServer(('127.0.0.1', 0), Handler)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert expected in named(f"http://127.0.0.1:{server.stdout.readline().strip()}/api")
        finally:
            server.kill()
