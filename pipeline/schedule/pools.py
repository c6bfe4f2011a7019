"""The workers that a plan asks for: here, on Ray, of one run or lent to many.

Knows what a worker opens with. Does not know what is given to it.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import RunConfig
from pipeline.core.errors import ConfigError
from pipeline.core.machines import Machine, Need, fits, gpus_here
from pipeline.schedule import Plan
from pipeline.schedule.session import Session
from pipeline.store.place.where import Place, place
from pipeline.store.run.run_dir import SUCCESS
from pipeline.workers.jobs import Opener, Pool

if TYPE_CHECKING:
    from pipeline.workers.execute import Settings


# What a worker imports.
COMPUTES = ("pipeline.workers.execute", "pipeline.models.load", "pipeline.engine.patchable")


def open_pool(session: Session, *, local: bool = False) -> Pool:
    """The workers that the config asks for; with `local` one, in this process."""
    return start_pool(worker_opener(session), session.plan, local=local)


def on_its_way(config: RunConfig, run_dir: str | None) -> AbstractContextManager[None]:
    """Within it workers on this machine start before it is known what they compute, and a pool that opens takes them
    over. Not for a cluster, nor where a run of that name, or there, is complete: nothing may be left to do."""
    cluster, output = config.cluster, place(run_dir or config.output)
    complete = SUCCESS if run_dir else f"{config.name}-*/{SUCCESS}"
    if cluster.address != "local" or not isinstance(output, Path) or any(output.glob(complete)):
        return nullcontext()
    from pipeline.cluster import early

    workers = 1 if cluster.workers == "auto" else cluster.workers
    return early.on_its_way(workers, Need(cluster.threads, cluster.gpus_per_worker), COMPUTES)


@contextmanager
def starting(open_: Callable[[], Pool]) -> "Iterator[Future[Pool]]":
    """The pool that `open_` returns, on its way; closed at the end."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="start-pool") as thread:
        pool = thread.submit(open_)
        try:
            yield pool
        finally:
            if pool.exception() is None:
                pool.result().close()


def open_shared_pool(session: Session, *, local: bool = False) -> Pool:
    """Workers for this and other runs with the same model and cluster; `lend` makes them a run's pool."""
    from pipeline.workers.shared import shared_opener

    return start_pool(shared_opener(worker_settings(session)), session.plan, local=local)


def lend(pool: Pool, session: Session) -> Pool:
    """A shared pool as this run sees it."""
    from pipeline.workers.shared import Lent

    return Lent(pool, str(session.path.absolute()))


def refuse_what_is_not_here(plan: Plan) -> None:
    """ConfigError when this machine lacks the GPUs that the workers need: said before anything is started."""
    cluster, have = plan.config.cluster, gpus_here()
    if cluster.address != "local" or not cluster.gpus_per_worker or have is None:
        return
    workers = 1 if cluster.workers == "auto" else cluster.workers
    if fits(Machine(cpus=math.inf, gpus=have), Need(gpus=cluster.gpus_per_worker)) < workers:
        raise ConfigError(
            f"cluster: {workers} worker{'s' * (workers > 1)} with {cluster.gpus_per_worker:g} GPUs each, and this "
            f"machine has {have}; "
            "lower cluster.workers or cluster.gpus_per_worker (0 computes on the CPU), or set cluster.address"
        )


def start_pool(opener: Opener, plan: Plan, *, local: bool) -> Pool:
    """A pool of workers that open with `opener`, as the plan's config asks for. Imports Ray unless `local`."""
    if local:
        from pipeline.workers.local import LocalPool

        return LocalPool(opener)
    from pipeline.cluster.pool import RayPool

    cluster = plan.config.cluster
    return RayPool(
        opener,
        workers=None if cluster.workers == "auto" else cluster.workers,
        need=plan.need,
        address=cluster.address,
        wait_minutes=cluster.wait_minutes,
        stragglers=plan.config.failures.stragglers,
    )


def worker_opener(session: Session) -> Opener:
    """What a worker of the session does first: opens the directory and loads the model that was planned with."""
    from pipeline.workers.execute import opener

    return opener(worker_settings(session))


def worker_settings(session: Session) -> "Settings":
    """How the workers of a session compute."""
    return settings_of(session.plan, session.path)


def settings_of(plan: Plan, path: Place) -> "Settings":
    """How the workers of a plan compute whose run lies at `path`."""
    from pipeline.workers.execute import Settings

    config, model = plan.config, plan.model
    places = config.model.device_map
    on_cpu = "cpu" if isinstance(places, str) else places  # a mapping was checked to name no other device
    is_folder = model.is_local and not config.model.name.startswith("toy:")
    return Settings(
        run_path=str(path.absolute()),
        model_name=str(Path(model.path).absolute()) if is_folder else config.model.name,
        batch_size=config.cluster.batch_size,
        threads=config.cluster.threads,
        device_map=places if config.cluster.gpus_per_worker else on_cpu,
        max_memory=config.model.max_memory,
    )
