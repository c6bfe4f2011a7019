"""Flow runs of a Prefect deployment: ask for one, ask how it is, and what it says of its runs.

Knows Prefect's client and its errors. Does not know configs: a deployment is given parameters. What a run has
computed is never read here: its directory says that.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from pipeline.core.errors import ConfigError

DEPLOYMENT = "sweep/cluster"  # as in infra/prefect.yaml


def connect(address: str | None) -> str:
    """The API's address, from the option or PREFECT_API_URL, set for Prefect before it is imported."""
    url = address or os.environ.get("PREFECT_API_URL")
    if not url:
        raise ConfigError("which Prefect server? --address http://HOST:4200/api, or PREFECT_API_URL")
    if not url.rstrip("/").endswith("/api"):
        raise ConfigError(f"--address {url}: the API's URL ends with /api, such as http://127.0.0.1:4200/api")
    os.environ["PREFECT_API_URL"] = url.rstrip("/")
    return url.rstrip("/")


def start(address: str, parameters: dict[str, Any]) -> str:
    """Asks for a flow run with these parameters and returns its id; does not wait for it."""
    from prefect.deployments import run_deployment

    with _explained(address):
        return str(run_deployment(DEPLOYMENT, parameters=parameters, timeout=0, as_subflow=False).id)  # type: ignore[union-attr]


def state(address: str, flow_run: str) -> tuple[str, str, bool]:
    """(name of its state, what the state says, whether it is over)."""
    from prefect.client.orchestration import get_client

    with _explained(address), get_client(sync_client=True) as client:
        now = client.read_flow_run(UUID(flow_run)).state
    if now is None:
        return "Unknown", "", False
    return now.name or "", " ".join((now.message or "").split()), now.is_final()


def runs(address: str, flow_run: str) -> list[dict[str, str]]:
    """The table in which the flow says where its runs lie; empty until they are planned."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey

    wanted = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(flow_run)]), key=ArtifactFilterKey(any_=["runs"])
    )
    with _explained(address), get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=wanted)
    return list(json.loads(str(found[0].data))) if found else []


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Turns what Prefect's client raises into one line; none of it holds the auth string."""
    import httpx
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    try:
        yield
    except ObjectNotFound:
        raise ConfigError(
            f"--address {address}: no deployment {DEPLOYMENT} there; prefect --no-prompt deploy --all "
            "--prefect-file infra/prefect.yaml"
        ) from None
    except PrefectHTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise ConfigError(
                f"--address {address}: the server refuses this client; set PREFECT_API_AUTH_STRING"
            ) from None
        raise ConfigError(f"--address {address}: the server answers {error.response.status_code}") from None
    except (httpx.HTTPError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"--address {address}: no Prefect server there ({' '.join(str(error).split()) or type(error).__name__})"
        ) from None
