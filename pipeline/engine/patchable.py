"""A loaded model that can be recorded and patched: the stock model, its parts, its graph, its tokenizer, its counters.

Knows how the pieces of the engine meet. Does not know methods or metrics beyond the function they bind.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.core.errors import ModelError, PromptError
from pipeline.core.graph import Graph, KvGrouping
from pipeline.core.prompts import PromptPair, TokenPair
from pipeline.engine.batch import Attention, Batch, collate, from_ids
from pipeline.engine.capture import Capture, capture
from pipeline.engine.executor import Executor
from pipeline.engine.graphs import COLUMNS, Graphs
from pipeline.engine.passes import Passes
from pipeline.engine.prefix import ATTRIBUTION, Prefix, first_difference, worth_sharing
from pipeline.engine.readout import Objective, Unembedding
from pipeline.engine.recording import recording, run_base
from pipeline.engine.senders import SenderValues, at_answer, senders_of
from pipeline.models.activations import fuse_activations
from pipeline.models.adapters import Parts, find_parts
from pipeline.models.families import PostNorm, family_of
from pipeline.models.freed import keep_freed_memory
from pipeline.models.load import (
    context_length,
    graph_of,
    load_tokenizer,
    load_weights,
    resolve_model,
)
from pipeline.models.text_limits import branched_limit
from pipeline.models.tokens import tokenise
from pipeline.models.untrained import forget

if TYPE_CHECKING:
    from pipeline.metrics import Metric


@dataclass
class Counters:
    """Work done, in prompts: forward and backward passes of the stock model, evaluations of a patched part of it."""

    forward_passes: int = 0
    backward_passes: int = 0
    evaluations: int = 0

    def reset(self) -> None:
        self.forward_passes = self.backward_passes = self.evaluations = 0


@dataclass
class PatchableModel:
    """A stock Hugging Face model (`hf`) with what patching needs."""

    hf: Any
    parts: Parts
    graph: Graph
    tokenizer: Any = None
    counters: Counters = field(default_factory=Counters)
    dtype: torch.dtype | None = None  # when it was wrapped: weights are views, made then
    graphs: Graphs | None = None  # where attribution runs in static shapes, as CUDA graphs if there is CUDA

    def check_unchanged(self) -> None:
        """ModelError for a model that was converted after it was wrapped: its kernels and views are the old ones."""
        if self.dtype is not None and self.hf.dtype != self.dtype:
            then, now = (str(dtype).removeprefix("torch.") for dtype in (self.dtype, self.hf.dtype))
            raise ModelError(
                f"the model was {then} when it was loaded and is {now} now; load it with dtype={now!r}, or give the "
                "converted model to patchable()"
            )

    def __repr__(self) -> str:
        dtype = str(self.hf.dtype).removeprefix("torch.")
        name = getattr(self.config, "name_or_path", "") or getattr(self.config, "model_type", "")
        return f"PatchableModel({name}: {self.graph.describe()}, {dtype}, on {', '.join(self.devices)})"

    @property
    def config(self) -> Any:
        """The transformers config."""
        return self.hf.config

    @property
    def device(self) -> torch.device:
        """Where the first block computes, and batches are."""
        return self.parts.blocks[0].device

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices on which the model computes."""
        places = [*(block.device for block in self.parts.blocks), self.parts.device]
        return tuple(dict.fromkeys(str(place) for place in places))

    @property
    def coupled(self) -> tuple[bool, ...]:
        """Which layers have heads that depend on each other."""
        return tuple(block.coupled for block in self.parts.blocks)

    # --- batches -----------------------------------------------------------------------------------------

    def batch(
        self,
        pairs: Sequence[PromptPair] | Sequence[TokenPair],
        *,
        attention: Attention = "causal",
        padding: Literal["left", "right"] = "right",
    ) -> Batch:
        """One padded batch of all pairs, tokenised and checked; PromptError names a pair that cannot be used."""
        texts = [pair for pair in pairs if isinstance(pair, PromptPair)]
        tokens = [pair for pair in pairs if isinstance(pair, TokenPair)]
        if texts:
            tokens = tokenise(
                texts,
                self.tokenizer,
                max_length=context_length(self.config),
                vocab_size=self.config.vocab_size,
                max_branched=branched_limit(self.config),
            )
        return collate(tokens, device=self.device, attention=attention, padding=padding)

    def batch_from_ids(
        self,
        clean: Tensor,
        corrupted: Tensor,
        answers: Tensor,
        wrong_answers: Tensor | None = None,
        attention_mask: Tensor | None = None,
        prompt_ids: Sequence[int] | None = None,
        spans: Mapping[str, Tensor] | None = None,
    ) -> Batch:
        """A batch of token ids: [prompt, pos]; answers [prompt] or [prompt, answer] padded with -1; `spans` are
        masks [prompt, pos] by name."""
        return from_ids(
            clean,
            corrupted,
            answers,
            wrong_answers,
            attention_mask,
            prompt_ids,
            device=self.device,
            spans=spans,
        )

    # --- runs --------------------------------------------------------------------------------------------

    def capture(
        self,
        batch: Batch,
        which: Literal["clean", "corrupted"] = "clean",
        prefix: Prefix | None = None,
    ) -> Capture:
        """The recorded stock run on one side of the batch, which is what comes after the `prefix`."""
        self.check_unchanged()
        self.counters.forward_passes += batch.n_prompts
        return capture(self.hf, self.parts, getattr(batch, which), batch, prefix)

    def answer_hidden(
        self, batch: Batch, which: Literal["clean", "corrupted"]
    ) -> Float[Tensor, "prompt *read d_model"]:
        """Final hidden states at the answer of a plain stock run, with the model's own attention kernel."""
        self.check_unchanged()
        self.counters.forward_passes += batch.n_prompts
        hidden = run_base(self.hf, self.parts, getattr(batch, which), batch)
        return at_answer(hidden, batch.answer_pos).squeeze(-2)

    @torch.no_grad()
    def senders(
        self, batch: Batch, which: Literal["clean", "corrupted"], prefix: Prefix | None = None
    ) -> tuple[SenderValues, Float[Tensor, "prompt *read d_model"]]:
        """What every sender writes in a stock run with a fast attention kernel, and final hidden states at the answer.

        For attribution, which needs no masks and no projections; patching needs `capture`. The batch is what comes
        after the `prefix`.
        """
        self.check_unchanged()
        self.counters.forward_passes += batch.n_prompts
        if self.graphs is not None and prefix is not None:
            side = replace(batch, clean=getattr(batch, which))
            hidden, values, _ = self.graphs.forward(Passes(self.hf, self.parts, side, prefix=prefix))
            return values, hidden.detach()
        with recording(self.hf, self.parts, exact=False, prefix=prefix) as records:
            hidden = run_base(self.hf, self.parts, getattr(batch, which), batch)
        return senders_of(self.parts, records[:-1]), at_answer(hidden, batch.answer_pos).squeeze(-2)

    @torch.no_grad()
    def corrupted_senders(self, batch: Batch) -> tuple[SenderValues, Batch, Prefix | None]:
        """What every sender writes for the corrupted prompts; from where these begin to differ from the clean ones on,
        where runs of those columns alone pay. Then the columns, and what runs of them have of those before. Counted as
        one pass: what is equal is run once for both sides.

        In static shapes there is always a prefix, maybe of no columns: it has the masks."""
        self.check_unchanged()
        if self.graphs is not None:
            batch = batch.widened(COLUMNS)
        start, prefix = first_difference(batch), None
        if not worth_sharing(batch, start, ATTRIBUTION):
            start = 0
        if self.graphs is not None:
            start -= start % COLUMNS
        with recording(self.hf, self.parts, exact=False) as records:
            run_base(self.hf, self.parts, batch.corrupted, batch)
        if start or self.graphs is not None:
            prefix = Prefix.of([(record["k"], record["v"], record["mask"]) for record in records[:-1]], start)
        if prefix is None:
            self.counters.forward_passes += batch.n_prompts
            return senders_of(self.parts, records[:-1]), batch, None
        later = batch.since(start)
        return self.senders(later, "corrupted", prefix)[0], later, prefix

    def executor(self, run: Capture, answer_pos: Int[Tensor, "prompt *read"]) -> Executor:
        """The parts of the model in the context of a recorded run."""
        return Executor.for_run(self.parts, run, answer_pos)

    # --- measuring ---------------------------------------------------------------------------------------

    @property
    def unembedding(self) -> Unembedding:
        head = self.parts.head
        return Unembedding(self.parts.unembedding, self.parts.unembedding_bias, head.scale, head.softcap)

    def objective(
        self,
        metric: "Metric",
        batch: Batch,
        clean_hidden: Float[Tensor, "prompt *read d_model"] | None = None,
    ) -> Objective:
        """The metric bound to a batch; metrics that compare with the clean run need its hidden states at the answer.

        PromptError for a prompt without the answers that the metric looks at: its mean would be NaN, its sum 0.
        """
        for answers, what, needed in (
            (batch.answers, "answers", True),
            (batch.wrong_answers, "wrong answers", metric.needs_wrong),
        ):
            if needed and not bool((there := (answers >= 0).any(-1)).all()):
                prompt = batch.prompt_ids[int((~there).nonzero()[0])]
                raise PromptError(
                    f"prompt {prompt}: has no {what} and {metric.name} needs them; give some, or choose another metric"
                )
        reference = None
        if metric.needs_reference:
            if clean_hidden is None:
                raise ValueError(f"{metric.name} needs the clean run")
            reference = self.unembedding.reference(clean_hidden)
        return Objective(metric.compute, metric.sign, self.unembedding, batch, reference)


def load_model(
    name: str,
    dtype: str = "float32",
    device_map: Any = "cpu",
    revision: str = "main",
    kv: KvGrouping = "query_head",
    *,
    trust_remote_code: bool = False,
    max_memory: Any = None,
    fingerprint: str | None = None,
    post_norm: PostNorm = "mixed",
    gguf: str | None = None,
    untrained: int | None = None,
    cuda_graphs: bool = False,
) -> PatchableModel:
    """A model from a folder, the hub or the bundled toys (`toy:trained`), checked against its own stock logits.

    `device_map` and `max_memory` are accelerate's: layers may lie on several devices, or be offloaded. `fingerprint`
    is that of the folder which is meant; a hub's commit is meant by `revision`. `post_norm` says what a head writes in
    models with a norm after attention (Gemma 2 and 3, OLMo-2; no other): in front of the norm, which each reader takes
    of the `mixed` sum it reads, or its share in its `own` run; `mib` is `mixed` with EAP-IG's attribution. `gguf` names
    a file in the folder that is the model, dequantised (`pipeline.models.gguf`). `untrained` is a seed: the weights are
    then those that training would begin with. With `cuda_graphs` attribution runs in static shapes
    (`pipeline.engine.graphs`).

    Raises ModelError for an unknown model, another one than is meant, an unsupported architecture, or one that the
    engine does not reproduce.
    """
    resolved = resolve_model(name, revision, trust_remote_code, gguf)
    if resolved.is_local and fingerprint not in (None, resolved.fingerprint):
        raise ModelError(
            f"model {name!r}: is not the one that the run was planned with, its files have changed or differ between "
            "machines; put them back, or run the config again for a run of its own"
        )
    hf = load_weights(resolved, dtype, device_map, max_memory)
    if untrained is not None:
        forget(hf, untrained)
    return patchable(
        hf, kv=kv, tokenizer=load_tokenizer(resolved), post_norm=post_norm, cuda_graphs=cuda_graphs
    )


def patchable(
    hf: Any,
    *,
    kv: KvGrouping = "query_head",
    tokenizer: Any = None,
    post_norm: PostNorm = "mixed",
    cuda_graphs: bool = False,
) -> PatchableModel:
    """Wraps a stock model that is loaded already; runs the self-check."""
    from pipeline.engine.selfcheck import check_model, stock_logits, tries

    family_of(hf.config)
    hf.eval().requires_grad_(requires_grad=False)
    has_double = any(parameter.dtype == torch.float64 for parameter in hf.parameters())
    if has_double and getattr(hf.config, "_experts_implementation", None) is not None:
        hf.set_experts_implementation("eager")  # the grouped kernels know no float64
    if getattr(hf.config, "attn_logit_softcapping", None) is not None and _attention(hf) == "sdpa":
        hf.set_attn_implementation("eager")  # sdpa of transformers 5.17 leaves the cap out in silence
    keep_freed_memory()
    expected = [stock_logits(hf, seed) for seed in tries(hf)]  # before anything is touched
    fuse_activations(hf)
    parts, graph = find_parts(hf, post_norm), graph_of(hf.config, kv)
    model = PatchableModel(hf, parts, graph, tokenizer, dtype=hf.dtype)
    check_model(model, expected)
    if cuda_graphs and len(model.devices) == 1:
        model.graphs = Graphs()
    elif cuda_graphs:
        warnings.warn(
            f"CUDA graphs are off: the model is on {', '.join(model.devices)}", RuntimeWarning, stacklevel=2
        )
    model.counters.reset()
    return model


def _attention(hf: Any) -> str | None:
    """The name of the stock model's attention kernel."""
    return getattr(hf.config, "_attn_implementation", None)
