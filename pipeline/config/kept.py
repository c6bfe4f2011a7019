"""Which scores of single prompts a config may keep, and draw and decide from.

Knows methods and the sections that speak of them. Does not know files.
"""

from collections.abc import Collection, Mapping

from pipeline.ablations import needs_statistics
from pipeline.config.sections import Aggregate, Shards, Until
from pipeline.core.documents import suggest
from pipeline.core.errors import ConfigError
from pipeline.methods import Method
from pipeline.tasks import Task
from pipeline.tasks.base import GeneratedTask


def check_kept(
    wanted: bool | tuple[str, ...], methods: Mapping[str, Method], aggregate: Aggregate, *, kept: bool
) -> None:
    """Refuses to keep what a method does not have, and to draw from what is not kept. ConfigError."""
    for id_ in wanted if isinstance(wanted, tuple) else ():
        if id_ not in methods:
            raise ConfigError(f"store.prompt_scores: unknown method {id_!r}{suggest(id_, methods)}")
        if not methods[id_].scores_prompts:
            raise ConfigError(f"store.prompt_scores: {id_} has none: {_without(methods[id_])}; leave it out")
    if wanted and not kept:
        raise ConfigError("store.prompt_scores: no method here scores edges prompt by prompt; leave it out")
    if aggregate.bootstrap_top is not None and not aggregate.bootstrap:
        raise ConfigError(
            "aggregate.bootstrap_top: means something with aggregate.bootstrap alone; set that too"
        )
    if aggregate.bootstrap and not kept:
        raise ConfigError(
            "aggregate.bootstrap: draws from every prompt's scores; set store.prompt_scores: true too"
        )


def check_until(
    until: Until,
    shards: Shards,
    tasks: Mapping[str, Task],
    methods: Mapping[str, Method],
    kept: Collection[str],
) -> None:
    """Refuses what cannot be decided shard after shard. ConfigError."""
    if not any(id_ in kept and not method.decides for id_, method in methods.items()):
        raise ConfigError("until: is decided by every prompt's scores; set store.prompt_scores: true too")
    if not shards.in_order:
        raise ConfigError("until: adds prompts in order; leave by_length, stratify and minutes out of shards")
    for id_, method in methods.items():
        if method.pooled:
            raise ConfigError(
                f"until: {id_} decides over all prompts of a task together: with more of them it is another search, of "
                "which nothing is left; run it by itself with the count at which this stops, or by shard where it can "
                "(scope: shard)"
            )
    means = {method.ablation for method in methods.values() if method.ablation is not None}
    for id_, task in tasks.items():
        if task.filter is not None and any(needs_statistics(name) for name in means):
            raise ConfigError(
                f"until: a mean over the prompts of {id_} that its filter keeps is known when all have been tried, "
                "which this would save; leave the filter out, or use another ablation"
            )
        if task.answers == "shuffled":
            raise ConfigError(
                f"until: the answers of {id_} are shuffled over all of its prompts; run it by itself"
            )
        if isinstance(task, GeneratedTask) and task.count > until.max_prompts:
            raise ConfigError(
                f"until: max_prompts is {until.max_prompts:,}, and {id_} begins with {task.count:,}; give it fewer "
                "(count), or allow more"
            )


def _without(method: Method) -> str:
    """Why a method has no scores of single prompts."""
    if method.decides:
        return "it decides over all prompts of a shard together"
    return (
        "it scores nodes" if method.result.of == "node" else "it has no score of every edge for every prompt"
    )
