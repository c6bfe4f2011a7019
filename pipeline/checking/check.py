"""A config's tasks tried on its model: what the prompts are, what the model does with them, and what that means.

Knows configs, models and tasks. Does not know items, runs or how facts are shown; computes in this process.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pipeline.checking.facts import pieces, prompt_facts
from pipeline.checking.meaning import verdict
from pipeline.checking.reading import Refused, usable
from pipeline.config import RunConfig
from pipeline.core.errors import PromptError
from pipeline.core.prompts import TokenPair
from pipeline.models.folder_trial import try_folder
from pipeline.models.load import ResolvedModel, load_tokenizer
from pipeline.schedule.listeners import tell
from pipeline.schedule.make import limits_of, resolved, told
from pipeline.schedule.task_prompts import task_prompts
from pipeline.tasks import Task

AT_ONCE = 256  # prompts between two words on how far it is


def check(config: RunConfig, limit: int | None = 1000) -> dict[str, Any]:
    """By task, whether the model does what the prompts ask, in plain data: `{"model": ..., "tasks": {id: {...}}}`.

    Of every task the first `limit` prompts are tried (None: all). A prompt that cannot be used is counted with its
    reason, and so is a task that has none to give. Raises ModelError for a model that does not load.
    """
    model = resolved(config)
    tasks = dict(tried(config, limit, model))
    return {
        "model": {"name": config.model.name, "note": model.note},
        "limit": limit,
        "tasks": tasks,
    }


def tried(
    config: RunConfig, limit: int | None = 1000, source: ResolvedModel | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The facts about one task after the other, as `check` gives them; the model is loaded once."""
    import torch

    from pipeline.checking.behaviour import Behaviour
    from pipeline.engine.patchable import load_model

    asked, cluster = config.model, config.cluster
    source = source or resolved(config)
    try_folder(source)
    tokenizer = load_tokenizer(source)
    read = {id_: _read(task, id_, tokenizer, source, config, limit) for id_, task in config.task_ids.items()}
    torch.set_num_threads(cluster.threads)
    model = load_model(
        asked.name,
        device_map=asked.device_map if cluster.gpus_per_worker else "cpu",
        revision=asked.revision,
        max_memory=asked.max_memory,
        **asked.reading,
    )
    for id_, (tokens, refused) in read.items():
        behaviour = Behaviour(model, config.metrics, config.task_ids[id_].attention)
        for start in range(0, len(tokens), AT_ONCE):
            part = tokens[start : start + AT_ONCE]
            behaviour.take(part, cluster.batch_size)
            tell(id_, start + len(part), (start + len(part)) / len(tokens))
        cut = task_prompts(tokens, config.shards, task=id_)
        sizes = map(len, map(cut.of_shard, range(cut.n_shards)))
        facts = prompt_facts(
            cut, tokenizer, per_shard=cut.per_shard, batch_size=cluster.batch_size, sizes=sizes
        )
        facts |= {"refused": refused.to_list(), **behaviour.facts()}
        for one in facts["instead"]:
            (one["text"],) = pieces(tokenizer, [one["token"]])
        word, words = verdict(facts)
        yield id_, {"verdict": word, "words": words, **facts}


def _read(
    task: Task, id_: str, tokenizer: Any, model: ResolvedModel, config: RunConfig, limit: int | None
) -> tuple[list[TokenPair], Refused]:
    refused = Refused()
    pairs = islice(told(task, id_, tokenizer, config.seed), limit)
    tokens = []
    try:
        for token in usable(pairs, tokenizer, refused, **limits_of(config, model)):
            tokens.append(token)  # noqa: PERF402 - what came before an error is kept
    except PromptError as error:  # of a file that cannot be read, or a tokenizer without the task's words
        refused.add(str(error))
    return tokens, refused
