"""What a run will do, before anything is computed: items, their keys, passes, rows and memory.

Knows config, prompts in tokens, the graph, and each method's cost. Does not know weights, workers or results.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from pipeline.ablations import ABLATIONS, needs_statistics
from pipeline.config import RunConfig
from pipeline.core.documents import suggest
from pipeline.core.errors import ConfigError, PromptError
from pipeline.core.graph import Graph
from pipeline.core.items import Item, Kind, digest, shard_ranges
from pipeline.core.prompts import TokenPair, bucket_by_length
from pipeline.methods import Cost, Method
from pipeline.methods.base import captures
from pipeline.metrics import METRICS
from pipeline.models.footprint import PROCESS_BYTES, Footprint
from pipeline.models.load import ResolvedModel, context_length, graph_of, load_tokenizer, resolve_model
from pipeline.models.tokens import tokenise
from pipeline.placement import Need
from pipeline.store.bootstrap import MOST_EDGES
from pipeline.store.place import Place, place
from pipeline.store.prompt_scores import n_bytes
from pipeline.store.run_dir import RunDirectory
from pipeline.store.schema import SCHEMA_VERSION


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is known about a run before its first pass; make one with `make_plan`."""

    config: RunConfig
    model: ResolvedModel
    graph: Graph
    tokens: dict[str, list[TokenPair]]

    @cached_property
    def methods(self) -> dict[str, Method]:
        """Every method by its id, with metric and ablation written out."""
        return self.config.method_ids

    # --- items -------------------------------------------------------------------------------------------

    @cached_property
    def items(self) -> list[Item]:
        """All items in the order of execution: statistics; then, shard by shard, baseline and methods; then what
        looks at whole tasks."""
        items = []
        if any(needs_statistics(name) for name in self.config.ablations):
            items += [Item("statistics", task, None, 0) for task in self.tokens]
        for task, tokens in self.tokens.items():
            for shard in range(len(shard_ranges(len(tokens), self.config.shards.prompts))):
                items.append(Item("baseline", task, None, shard))
                for id_, method in self.methods.items():
                    kind: Kind = "scores" if method.level == "edge" else "node_scores"
                    if not method.pooled:
                        items.append(Item(kind, task, id_, shard))
        for task in self.tokens:
            items += [Item("scores", task, id_, 0) for id_, method in self.methods.items() if method.pooled]
        return items

    def is_pooled(self, item: Item) -> bool:
        """Whether an item is of all prompts of its task."""
        return item.method is not None and self.methods[item.method].pooled

    def prompts(self, item: Item) -> list[TokenPair]:
        """The prompts that an item reads: its shard's, or the whole task's (statistics, pooled methods)."""
        tokens = self.tokens[item.task]
        if item.kind == "statistics" or self.is_pooled(item):
            return tokens
        shard = shard_ranges(len(tokens), self.config.shards.prompts)[item.shard]
        return tokens[shard.start : shard.stop]

    # --- identity ----------------------------------------------------------------------------------------

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the run key is made of: the config's identity, the model's files, the prompts themselves."""
        identity = self.config.identity()
        identity["model"] |= {"fingerprint": self.model.fingerprint, "graph": self.graph.fingerprint}
        identity["tasks"] = {
            id_: {
                "attention": task.attention,
                "prompts": len(self.tokens[id_]),
                "sha256": self._task_digest[id_],
            }
            for id_, task in self.config.task_ids.items()
        }
        if self._span_digest:  # of those that are read: naming others makes no other run
            identity["spans"] = {
                f"{task}/{name}": {"sha256": d} for (task, name), d in self._span_digest.items()
            }
        return identity | {"schema_version": SCHEMA_VERSION}

    @cached_property
    def run_key(self) -> str:
        """sha256 of the identity; equal keys, equal runs."""
        return digest(self.identity)

    @property
    def run_id(self) -> str:
        """Name of the run directory: the config's name and six digits of the run key."""
        return f"{self.config.name}-{self.run_key[:6]}"

    @property
    def path(self) -> Place:
        """Where the run directory lies unless the caller says otherwise."""
        return place(self.config.output) / self.run_id

    @cached_property
    def item_keys(self) -> dict[Item, str]:
        return {item: digest(self._item_identity(item)) for item in self.items}

    def item_key(self, item: Item) -> str:
        """sha256 of all that the item's file depends on; a finished item is reused by it."""
        return self.item_keys[item]

    def _item_identity(self, item: Item) -> dict[str, Any]:
        whole = self.identity
        identity = {
            "item": item.to_dict(),
            "model": whole["model"],
            "attention": whole["tasks"][item.task]["attention"],
            "prompts": digest([_plain(token) for token in self.prompts(item)]),
            "seed": whole["seed"],
            "schema_version": SCHEMA_VERSION,
        }
        if item.kind == "statistics":  # the same sums serve every kind of mean
            return identity
        if item.method is None:
            return identity | {"metrics": self.config.metrics}
        method = whole["methods"][item.method]
        if needs_statistics(method["ablation"]):  # the means come from the prompts of the other shards too
            identity |= {"task": self._task_digest[item.task]}
        if span := self.methods[item.method].span:
            identity |= {"spans": digest([prompt.spans.get(span) for prompt in self.prompts(item)])}
        return identity | {"method": method}

    @cached_property
    def _task_digest(self) -> dict[str, str]:
        return {task: digest([_plain(token) for token in tokens]) for task, tokens in self.tokens.items()}

    @cached_property
    def _span_digest(self) -> dict[tuple[str, str], str]:
        """Where the spans lie that a method reads, by task and name."""
        names = sorted({method.span for method in self.methods.values() if method.span})
        return {
            (task, name): digest([token.spans.get(name) for token in tokens])
            for task, tokens in self.tokens.items()
            for name in names
        }

    # --- costs -------------------------------------------------------------------------------------------

    def cost(self, item: Item) -> Cost:
        """The work in an item, counted in prompts, and the rows that it writes."""
        prompts = self.prompts(item)
        if item.kind == "statistics":
            return Cost(forward_passes=len(prompts))
        if item.method is None:
            return Cost(forward_passes=2 * len(prompts), rows=len(prompts) * len(self.config.metrics))
        method = self.methods[item.method]
        read = [prompt.length for prompt in prompts if method.span is None or method.span in prompt.spans]
        return method.cost(self.graph, read)

    @cached_property
    def total(self) -> Cost:
        return sum((self.cost(item) for item in self.items), start=Cost())

    @cached_property
    def evaluation(self) -> dict[str, Cost]:
        """By task, the work of evaluating the circuits of its methods once all items are there. No circuit and its
        runs are recorded once for all methods that agree in metric and ablation."""
        groups: dict[tuple[str, str], int] = {}
        for method in self.methods.values():
            if method.level == "edge":
                group = str(method.metric), str(method.ablation)
                n_circuits = 1 if method.decides else len(self.config.evaluate.edge_fractions)
                groups[group] = groups.get(group, 0) + n_circuits
        recorded = sum(captures(ablation) for _, ablation in groups)
        n_circuits = sum(groups.values())
        return {
            task: Cost(
                forward_passes=recorded * len(tokens),
                evaluations=(len(groups) + n_circuits) * len(tokens),
                rows=n_circuits,
            )
            for task, tokens in self.tokens.items()
            if groups
        }

    @property
    def rows(self) -> int:
        return self.total.rows

    @cached_property
    def _footprint(self) -> Footprint:
        return Footprint(self.model.config, self.graph, self.config.model.dtype)

    @cached_property
    def memory_bytes(self) -> int:
        """A rough estimate for one worker: what it cannot do without, and its share of what a pooled search keeps."""
        config = self.config
        workers = config.cluster.workers
        # as many workers as fit share what they have left
        searched = 0 if workers == "auto" else max(self.search_bytes.values(), default=0) // workers
        if (limit := config.cluster.memory_per_worker) is not None:
            searched = min(searched, int(limit * 2**30))
        return PROCESS_BYTES + self.working_bytes + searched

    @cached_property
    def weight_bytes(self) -> int:
        """The model's parameters."""
        return self._footprint.weights()

    @cached_property
    def working_bytes(self) -> int:
        """What a worker holds at least, on its devices where it has any: the model, a batch under work, tables of
        scores."""
        config, footprint = self.config, self._footprint
        longest = max((token.length for tokens in self.tokens.values() for token in tokens), default=0)
        batch = config.cluster.batch_size
        kept = max((len(self.prompts(i)) for i in self.items if i.method in config.prompt_scores), default=0)
        by_prompt = (
            2 * 8 * kept * self.graph.n_edges
        )  # a shard's rows, and the same in the order of its prompts
        return self.weight_bytes + footprint.passes(batch, longest) + footprint.tables(batch) + by_prompt

    @property
    def need(self) -> Need:
        """What a worker takes of a machine."""
        cluster = self.config.cluster
        if cluster.gpus_per_worker:  # weights pass through the machine's memory on their way
            memory = PROCESS_BYTES + self.weight_bytes
            return Need(cluster.threads, cluster.gpus_per_worker, memory, self.working_bytes)
        return Need(cluster.threads, 0, PROCESS_BYTES + self.working_bytes)

    @cached_property
    def search_bytes(self) -> dict[str, int]:
        """By task, the recorded runs of all its prompts: what the workers of a pooled search keep between them, or
        record again for every question where `cluster.memory_per_worker` does not hold them."""
        if not any(method.pooled for method in self.methods.values()):
            return {}
        size = self.config.cluster.batch_size
        return {
            task: self._footprint.searched(
                [(len(batch), batch[-1].length) for batch in bucket_by_length(tokens, size)]
            )
            for task, tokens in self.tokens.items()
        }

    def prompt_score_bytes(self, item: Item) -> int:
        """The size of every prompt's scores beside an item's own, before compression; 0 where none are kept."""
        kind = self.config.prompt_scores.get(item.method or "")
        return 0 if kind is None else n_bytes(len(self.prompts(item)), self.graph.n_edges, kind)

    def table(self) -> list[dict[str, Any]]:
        """What `circuits plan` prints: a row per task and method (or statistics, baseline) with counts."""
        grouped: dict[tuple[str, str], list[Item]] = {}
        for item in self.items:
            grouped.setdefault((item.task, item.method or item.kind), []).append(item)
        rows = []
        for (task, method), items in sorted(grouped.items(), key=lambda pair: self._table_order(pair[0])):
            cost = sum((self.cost(item) for item in items), start=Cost())
            rows.append(
                {
                    "task": task,
                    "method": method,
                    "items": len(items),
                    "prompts": sum(len(self.prompts(item)) for item in items),
                    "edges": self.graph.n_edges,
                    **asdict(cost),
                    "prompt_score_bytes": sum(map(self.prompt_score_bytes, items)),
                }
            )
        return rows

    def evaluation_table(self) -> list[dict[str, Any]]:
        """The rows that evaluation adds to the table: one per task; it has no items, its work is spread by shard."""
        return [
            {
                "task": task,
                "method": "faithfulness",
                "items": 0,
                "prompts": len(self.tokens[task]),
                "edges": self.graph.n_edges,
                **asdict(cost),
                "prompt_score_bytes": 0,
            }
            for task, cost in self.evaluation.items()
        ]

    def _table_order(self, key: tuple[str, str]) -> tuple[int, int]:
        return list(self.tokens).index(key[0]), ["statistics", "baseline", *self.methods].index(key[1])

    # --- writing -----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """plan.json: every item with its key and cost, and the totals."""
        items = [
            {**item.to_dict(), "key": self.item_keys[item], **asdict(self.cost(item))} for item in self.items
        ]
        return {
            "run_id": self.run_id,
            "run_key": self.run_key,
            "totals": asdict(self.total),
            "memory_bytes": self.memory_bytes,
            "search_bytes": self.search_bytes,
            "prompt_scores": self.config.prompt_scores,
            "prompt_score_bytes": sum(map(self.prompt_score_bytes, self.items)),
            "items": items,
        }

    def manifest(self) -> dict[str, Any]:
        """manifest.json: what the run is, in resolved form; readers and footers take their facts from it."""
        methods = {
            id_: {
                "level": method.level,
                "scores_prompts": method.scores_prompts,
                "parameters": self.identity["methods"][id_],
            }
            for id_, method in self.methods.items()
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.config.name,
            "run_key": self.run_key,
            "model": {
                "name": self.config.model.name,
                "revision": self.model.revision,
                "fingerprint": self.model.fingerprint,
                "dtype": self.config.model.dtype,
                "trust_remote_code": self.config.model.trust_remote_code,
            },
            "graph": asdict(self.graph),
            "graph_fingerprint": self.graph.fingerprint,
            "methods": methods,
            "metrics": list(self.config.metrics),
            "identity": self.identity,
        }

    def write(self, path: str | Place | None = None, *, extend: bool = False) -> RunDirectory:
        """The run directory of this plan, at `path` or its own place; see `RunDirectory.create`."""
        return RunDirectory.create(
            self.path if path is None else path,
            run_yaml=self.config.anchored().to_yaml(),
            manifest=self.manifest(),
            plan=self.to_dict(),
            graph=self.graph,
            prompts=self._sharded_prompts(),
            extend=extend,
        )

    def _sharded_prompts(self) -> Mapping[str, list[list[TokenPair]]]:
        size = self.config.shards.prompts
        return {
            task: [tokens[shard.start : shard.stop] for shard in shard_ranges(len(tokens), size)]
            for task, tokens in self.tokens.items()
        }


def make_plan(config: RunConfig) -> Plan:
    """The plan of a config: finds the model, writes and tokenises the prompts, checks what can be checked.

    Raises ModelError, PromptError or ConfigError; reads no weights.
    """
    model = resolve_model(config.model.name, config.model.revision, config.model.trust_remote_code)
    graph = graph_of(model.config, config.model.kv)
    if config.aggregate.bootstrap and config.aggregate.bootstrap_top is None and graph.n_edges > MOST_EDGES:
        raise ConfigError(
            f"aggregate.bootstrap: {graph.n_edges:,} edges are more than {MOST_EDGES:,}; set "
            "aggregate.bootstrap_top: 10000 for so many of the strongest"
        )
    tokenizer = load_tokenizer(model)
    needs_wrong = any(METRICS[name].needs_wrong for name in config.metrics)
    tokens = {}
    for id_, task in config.task_ids.items():
        pairs = task.pairs(tokenizer, config.seed)
        if not pairs:
            raise PromptError(f"task {id_}: has no prompts; give it at least one pair")
        tokens[id_] = tokenise(
            pairs,
            tokenizer,
            max_length=context_length(model.config),
            vocab_size=model.config.vocab_size,
            needs_wrong=needs_wrong,
        )
    for name in config.ablations:
        if ABLATIONS[name].positional:
            _require_one_length(name, tokens)
        if name == "corrupted":
            _require_difference(tokens)
    _require_spans(config, tokens)
    return Plan(config, model, graph, tokens)


def _require_spans(config: RunConfig, tokens: Mapping[str, list[TokenPair]]) -> None:
    for id_, method in config.method_ids.items():
        for task, pairs in tokens.items():
            known = list(dict.fromkeys(name for pair in pairs for name in pair.spans))
            if method.span is None or method.span in known:
                continue
            none = "; its prompts name none: give them 'spans', or use positions: all or last"
            raise PromptError(
                f"task {task}: no prompt has the span {method.span!r} that {id_} reads"
                + (suggest(method.span, known) if known else none)
            )


def _require_one_length(ablation: str, tokens: Mapping[str, list[TokenPair]]) -> None:
    for task, pairs in tokens.items():
        lengths = {pair.length for pair in pairs}
        if len(lengths) > 1:
            raise ConfigError(
                f"task {task}: has prompts of {min(lengths)} to {max(lengths)} tokens and {ablation} needs "
                "one length; use ablation: mean, or prompts of one length"
            )


def _require_difference(tokens: Mapping[str, list[TokenPair]]) -> None:
    for task, pairs in tokens.items():
        if all(pair.clean == pair.corrupted for pair in pairs):
            raise PromptError(
                f"task {task}: clean and corrupted are the same tokens in every prompt, so every score would be 0; "
                "change what matters in 'corrupted', or use another ablation"
            )


def _plain(token: TokenPair) -> list[Any]:
    """A prompt as it is rendered, in tokens and in words, without where it came from."""
    pair = token.pair
    ids = [token.clean, token.corrupted, token.answers, token.wrong_answers]
    return [*ids, pair.clean, pair.corrupted, pair.answers, pair.wrong_answers]
