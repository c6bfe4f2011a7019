"""What every test stands on: a quiet environment, one thread, fixed seeds, and where larger data is.

The environment is set while this file is read, before torch, Ray or Prefect are imported by any test.
"""

from tests import typed  # before `pipeline` is imported

# isort: split
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from flows.environment import VARIABLES
from pipeline.store.place.objects import ObjectPath
from pipeline.store.place.where import Place
from tests.object_store import KEYS, folder_in, serving
from tests.processes import GUARD_SECONDS, wait_for

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = ("tests.unchanged", "tests.cpu", "tests.diagonal", "tests.distribution")

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= VARIABLES  # a command sets them in its process, which here is that of all tests
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = str(int(GUARD_SECONDS))
os.environ |= KEYS
for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
    os.environ.pop(name, None)
# A Prefect of this test process alone: a person's own settings and database are neither read nor written.
_prefect_home = tempfile.mkdtemp(prefix="circuits-prefect-")
os.environ["PREFECT_HOME"] = _prefect_home

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every machine and in every run; a time is never asserted.
hypothesis_settings.register_profile(
    "circuits",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.load_profile("circuits")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays: it is not looked through for garbage, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_runtest_setup() -> None:
    typed.begin()


def pytest_unconfigure() -> None:
    shutil.rmtree(_prefect_home, ignore_errors=True)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of small real models and prompt sets: `CIRCUITS_DATA`, or one beside the project."""
    folder = Path(os.environ.get("CIRCUITS_DATA", ROOT.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip("no larger data: name its folder in CIRCUITS_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    """One thread per test process, whatever the machine has: sums keep their order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectPath]:
    """A bucket in an S3-compatible store of this machine."""
    with serving() as bucket:
        yield bucket


@pytest.fixture
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a test may write: a folder, or for tests that are parametrised (indirectly) with "s3" a prefix."""
    if getattr(request, "param", "local") == "local":
        return tmp_path
    return folder_in(request.getfixturevalue("object_store"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray on this machine, started once; the pools of the tests use it and leave it running.

    It asks nobody for a token: a test that has this process read another one would end what listens to it.
    """
    import ray

    from pipeline.cluster.private import tell_ray

    # GPUs are declared, not there: Ray only counts them and says which ones an actor sees
    asked = {"num_cpus": 4, "num_gpus": 4, "include_dashboard": False, "log_to_driver": False}
    # However busy the machine, no part of Ray takes another for dead.
    patience = {
        "health_check_timeout_ms": int(1000 * GUARD_SECONDS),
        "worker_register_timeout_seconds": int(GUARD_SECONDS),
    }

    def started() -> bool:
        try:
            ray.init(address="local", logging_level="ERROR", _system_config=patience, **asked)
        except Exception as error:
            if "timed out during startup" not in str(error):  # Ray's own 30 s
                raise
            ray.shutdown()
        return ray.is_initialized()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        tell_ray()
        wait_for(started)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def prefect_session() -> Iterator[None]:
    """Prefect's API in a temporary database; however busy the machine, it is waited for."""
    from prefect import settings
    from prefect.testing.utilities import prefect_test_harness

    patience = {
        settings.PREFECT_API_REQUEST_TIMEOUT: GUARD_SECONDS,
        settings.PREFECT_SERVER_DATABASE_TIMEOUT: GUARD_SECONDS,
        settings.PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT: GUARD_SECONDS,
    }
    idle = {  # looks every few seconds for what no test brings about
        settings.PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED: False,
        settings.PREFECT_SERVER_SERVICES_FOREMAN_ENABLED: False,
        settings.PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED: False,
        settings.PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED: False,
        settings.PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED: False,
        settings.PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED: False,
        settings.PREFECT_UI_ENABLED: False,
    }
    with settings.temporary_settings(patience | idle), prefect_test_harness(int(GUARD_SECONDS)):
        yield
