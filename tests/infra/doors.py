"""What a port answers to who has no secret, in the protocols that servers of Ray and Prefect speak.

Knows HTTP, gRPC and a few of their pages and calls. Does not know who listens.
"""

import urllib.error
import urllib.request
from contextlib import closing

import grpc

from tests.infra.nodes import listening
from tests.processes import GUARD_SECONDS

# A request that each kind of server knows: one that does not know it would refuse anybody.
METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/HealthCheck",
    "/ray.rpc.RayletDriver/ClusterInfo",
)


def over_http(host, port):
    """Status of a request without a token at the pages that servers of Ray have; None: does not speak HTTP."""
    found = set()
    for path in ("/api/jobs/", "/metrics", "/api/version"):
        try:
            with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=GUARD_SECONDS) as answer:
                found.add(answer.status)
        except urllib.error.HTTPError as error:
            found.add(error.code)
        except (OSError, ValueError, urllib.error.URLError):
            return None
        except Exception:  # noqa: BLE001 - http.client's own, at a server of another protocol
            return None
    return found


def over_grpc(host, port):
    """Codes that calls without a token come back with; empty: does not speak gRPC."""
    codes = set()
    with closing(grpc.insecure_channel(f"{host}:{port}")) as channel:
        for method in METHODS:
            try:
                channel.unary_unary(method)(b"", timeout=GUARD_SECONDS)
            except grpc.RpcError as error:
                codes.add(error.code().name)
            else:
                codes.add("OK")
    return codes - {"UNAVAILABLE", "UNIMPLEMENTED"}


def health(host, port):
    """What a health check comes back with: a byte for "serving" where there is one."""
    with closing(grpc.insecure_channel(f"{host}:{port}")) as channel:
        try:
            return channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=GUARD_SECONDS)
        except grpc.RpcError:
            return b""


def host_of(address):
    """An address of /proc/net/tcp as one to connect to: any address is reached at loopback."""
    raw = bytes.fromhex(address)[-4:]
    return "127.0.0.1" if not any(raw) else ".".join(str(part) for part in reversed(raw))


def doors(ports):
    """Rows of (port, addresses, codes over HTTP, codes over gRPC); a failed test where one of them answers anyone."""
    known, table = listening(), []
    for port in sorted(ports & known.keys()):
        for address in sorted(known[port]):
            host = host_of(address)
            http, codes = over_http(host, port), over_grpc(host, port)
            table.append((port, sorted(known[port]), http, codes))
            assert http or codes, f"{port} at {host} speaks neither protocol: nothing is shown about it"
            assert (http or set()) <= {401, 403}, f"{port} at {host} answers {http} to anyone"
            assert codes <= {"UNAUTHENTICATED"}, f"{port} at {host} answers {codes} to anyone"
            assert health(host, port) in (b"", b"\x08\x01")
    return table
