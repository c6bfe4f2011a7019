"""From a config to its plan: the model is found, prompts are written in its tokens, and what can be checked is.

Knows models' files and tasks. Does not know items, keys or costs; reads no weights.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.ablations import get_ablation
from pipeline.config import RunConfig
from pipeline.config.related import at_most
from pipeline.core.documents import suggest
from pipeline.core.errors import CircuitsError, ConfigError, PromptError
from pipeline.core.graph import Graph
from pipeline.core.prompts import PromptPair, TokenPair
from pipeline.metrics import get_metric
from pipeline.models.folder_trial import try_folder
from pipeline.models.load import ResolvedModel, context_length, graph_of, load_tokenizer, resolve_model
from pipeline.models.text_limits import branched_limit
from pipeline.models.tokens import tokenised
from pipeline.schedule.listeners import tell
from pipeline.schedule.plan import Plan
from pipeline.schedule.task_prompts import TaskPrompts, task_prompts
from pipeline.store.run.bootstrap import MOST_EDGES
from pipeline.tasks import Task


def make_plan(config: RunConfig, recorded: Mapping[str, Iterable[TokenPair]] | None = None) -> Plan:
    """The plan of a config: finds the model, writes and tokenises the prompts, checks what can be checked.

    `recorded`: prompts in tokens, by task, that are taken as they are. Raises ModelError, PromptError or ConfigError;
    reads no weights. `pipeline.schedule.listeners` tells how far it is.
    """
    model = resolved(config)
    graph = graph_of(model.config, config.model.kv)
    if config.aggregate.bootstrap and config.aggregate.bootstrap_top is None and graph.n_edges > MOST_EDGES:
        raise ConfigError(
            f"aggregate.bootstrap: {graph.n_edges:,} edges are more than {MOST_EDGES:,}; set "
            "aggregate.bootstrap_top: 10000 for so many of the strongest"
        )
    _require_names(config, graph)
    try_folder(model)
    tokenizer = load_tokenizer(model)
    limits = limits_of(config, model)
    read = sorted({span for method in config.method_ids.values() for span in method.spans})
    tokens = {}
    for id_, task in config.task_ids.items():
        if recorded and id_ in recorded:
            tokens[id_] = task_prompts(recorded[id_], config.shards, read, id_)
            continue
        pairs = told(at_most(task, config.until), id_, tokenizer, config.seed)
        tokens[id_] = task_prompts(tokenised(pairs, tokenizer, **limits), config.shards, read, id_)
        if not tokens[id_]:
            raise PromptError(f"task {id_}: has no prompts; give it at least one pair")
    for name in config.ablations:
        if get_ablation(name).positional:
            _require_one_length(name, tokens)
        if get_ablation(name).needs_corrupted:
            _require_difference(tokens)
    _require_spans(config, tokens)
    _require_one_read(config, tokens)
    plan = Plan(config, model, graph, tokens)
    if not recorded:
        _ = plan.truth  # a circuit beside prompts is read before anything is written
    return plan


def _require_names(config: RunConfig, graph: Graph) -> None:
    for id_, method in config.method_ids.items():
        try:
            method.check_names(graph)
        except ConfigError as error:
            raise ConfigError(f"methods ({id_}): {error}") from None
    for one in config.evaluate.also:
        try:
            one.n_circuits(graph, decides=False)
        except CircuitsError as error:
            raise ConfigError(f"evaluate: also ({one.name}): {error}") from None


def resolved(config: RunConfig) -> ResolvedModel:
    """What the config's model stands for at this moment. ModelError where it is none."""
    asked = config.model
    return resolve_model(asked.name, asked.revision, asked.trust_remote_code, asked.gguf)


def limits_of(config: RunConfig, model: ResolvedModel) -> dict[str, Any]:
    """What prompts are held to: by the model, and by the metrics of the config."""
    return {
        "vocab_size": model.config.vocab_size,
        "max_length": context_length(model.config),
        "needs_wrong": any(get_metric(name).needs_wrong for name in config.metrics),
        "max_branched": branched_limit(model.config),
    }


def told(task: Task, id_: str, tokenizer: Any, seed: int) -> Iterator[PromptPair]:
    """The pairs of a task as they come; what was taken is told."""
    taken = 0
    for pairs, share in task.told(tokenizer, seed):
        yield from pairs
        taken += len(pairs)
        tell(id_, taken, share)


def _require_spans(config: RunConfig, tokens: Mapping[str, TaskPrompts]) -> None:
    for id_, method in config.method_ids.items():
        for task, pairs in tokens.items():
            known = pairs.span_names
            none = "; its prompts name none: give them 'spans', or use positions: all or last"
            for span in method.spans:
                if span not in known:
                    raise PromptError(
                        f"task {task}: no prompt has the span {span!r} that {id_} reads"
                        + (suggest(span, known) if known else none)
                    )


def _require_one_read(config: RunConfig, tokens: Mapping[str, TaskPrompts]) -> None:
    for id_, method in config.method_ids.items():
        if not method.reads_sequences:
            for task, pairs in tokens.items():
                if pairs.has_sequences:
                    raise ConfigError(
                        f"task {task}: {id_} reads one position at a time, and target: sequence reads an answer at "
                        "several; set target: first_difference, or leave the method out"
                    )


def _require_one_length(ablation: str, tokens: Mapping[str, TaskPrompts]) -> None:
    for task, pairs in tokens.items():
        shortest, longest = pairs.lengths.min(), pairs.lengths.max()
        if pairs.branches:
            raise ConfigError(
                f"task {task}: has answers that go on in several ways, and {ablation} needs one token at each "
                "position; use ablation: mean, or target: first_difference"
            )
        if shortest < longest:
            raise ConfigError(
                f"task {task}: has prompts of {shortest} to {longest} tokens and {ablation} needs "
                "one length; use ablation: mean, or prompts of one length"
            )


def _require_difference(tokens: Mapping[str, TaskPrompts]) -> None:
    for task, pairs in tokens.items():
        if not pairs.differs:
            raise PromptError(
                f"task {task}: clean and corrupted are the same tokens in every prompt, so every score would be 0; "
                "change what matters in 'corrupted', or use another ablation"
            )
