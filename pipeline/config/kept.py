"""Which scores of single prompts a config may keep, and draw from.

Knows methods and the sections that speak of them. Does not know files.
"""

from collections.abc import Mapping

from pipeline.config.sections import Aggregate
from pipeline.core.documents import suggest
from pipeline.core.errors import ConfigError
from pipeline.methods import Method


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


def _without(method: Method) -> str:
    """Why a method has no scores of single prompts."""
    if method.decides:
        return "it decides over all prompts of a shard together"
    return (
        "it scores nodes" if method.result.of == "node" else "it has no score of every edge for every prompt"
    )
