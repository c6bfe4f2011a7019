"""Methods that combine what others of the same run have found: how they are measured, and what means nothing.

Knows methods and their ids. Does not know scores.
"""

from collections.abc import Mapping

from pipeline.core.documents import suggest
from pipeline.core.errors import ConfigError
from pipeline.core.results import EDGE_SCORES
from pipeline.methods import Method


def measured_alike(methods: Mapping[str, Method]) -> dict[str, Method]:
    """The methods by id, those that combine others with the metric and ablation of these where all agree."""
    return {id_: _like(method, methods) if method.combines else method for id_, method in methods.items()}


def _like(method: Method, methods: Mapping[str, Method]) -> Method:
    said = {(methods[id_].metric, methods[id_].ablation) for id_ in method.combines if id_ in methods}
    if len(said) != 1:
        return method
    ((metric, ablation),) = said
    return method.model_copy(update={"metric": metric, "ablation": ablation})


def check_combined(methods: Mapping[str, Method], kept: bool | tuple[str, ...]) -> None:
    """Refuses to combine what is not there, is no score, or is measured otherwise; and to keep the scores of single
    prompts without those that they come from. ConfigError."""
    for id_, method in methods.items():
        for other in method.combines:
            _check_member(id_, other, methods)
        if len(set(method.combines)) < len(method.combines):
            raise ConfigError(f"methods: {id_}: names a method twice; name each once")
        said = {_said(methods[other]) for other in method.combines}
        if len(said) > 1:
            raise ConfigError(
                f"methods: {id_}: combines scores of other units: {'; '.join(sorted(said))}; give its methods one "
                "metric, one ablation and the same positions"
            )
        if isinstance(kept, tuple) and id_ in kept and (without := set(method.combines) - {*kept}):
            raise ConfigError(
                f"store.prompt_scores: {id_} has them from its methods; name {', '.join(sorted(without))} too"
            )


def _check_member(id_: str, other: str, methods: Mapping[str, Method]) -> None:
    if other not in methods:
        raise ConfigError(f"methods: {id_}: of: unknown method {other!r}{suggest(other, methods)}")
    one = methods[other]
    why = (
        "is a combination itself"
        if one.combines
        else f"scores {one.kind.of}s"
        if one.kind != EDGE_SCORES
        else "decides which edges to keep, and its scores are what was lost at that moment"
        if one.decides or one.pooled
        else ""
    )
    if why:
        raise ConfigError(f"methods: {id_}: of: {other} {why}; leave it out")


def _said(method: Method) -> str:
    at = f" at {', '.join(method.spans)}" if method.spans else ""
    positions = getattr(method, "positions", "all")
    return f"{method.metric}, {method.ablation}" + (at or ("" if positions == "all" else f" at {positions}"))
