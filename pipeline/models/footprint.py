"""What a worker's memory holds, estimated from a model's shapes: no weights are read and nothing is computed.

Knows shapes and how many numbers are kept of a run. Does not know configs, shards or machines.

Estimates in numbers of the model's dtype, for planning: some tens of percent off, never orders of magnitude.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.graph import Graph
from pipeline.models.families import family_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# What all senders' written differences of one batch may take; beyond it they are projected each time.
DELTA_BYTES = 2**28
# What edge scores multiply at once (`engine.attribution`): so many bytes of senders' differences and receivers'
# gradients, and receivers of as many layers as give so many columns.
CHUNK_BYTES, COLUMNS = 2**27, 128
# A worker of Python with torch, transformers, Ray and pyarrow, before it loads a model (measured, CPU).
PROCESS_BYTES = 6 * 10**8


@dataclass(frozen=True)
class Footprint:
    """Sizes for one model. Positions are prompts times their length; every answer is in bytes."""

    config: "PretrainedConfig"
    graph: Graph
    dtype: str

    def weights(self) -> int:
        """The model's parameters: its matrices, without norms, biases and positions."""
        config, d_model, n_heads = self.config, self._d_model, self.graph.n_heads
        tied = 1 if getattr(config, "tie_word_embeddings", True) else 2
        sharing = getattr(config, "num_key_value_heads", None) or n_heads  # heads of keys and of values
        attention = 2 * d_model * self._head * (n_heads + sharing)
        matrices = 3 if family_of(config).gated else 2
        numbers = self._layers * attention + matrices * d_model * self._mlp_widths
        return self._bytes(numbers + tied * config.vocab_size * d_model)

    def passes(self, prompts: int, length: int, steps: int = 1) -> int:
        """A batch under work: recorded runs, differences, and the gradients at `steps` points, with what a backward
        pass needs, or scores are multiplied from, whichever is more. Without steps what a search keeps written out."""
        positions, layers, d_model = prompts * length, self._layers, self._d_model
        # values of a run and its ports; two runs' heads and MLPs; gradients at q, k, v and MLP, and where norms stand
        held = self._bytes(positions * layers * (5 + 4 + 6 * steps) * d_model)
        if not steps:
            return held + min(2 * self._bytes(self.graph.n_senders * positions * d_model), DELTA_BYTES)
        saved = 10 * d_model + 3 * self._inner + self.graph.n_heads * length
        return held + max(self._bytes(positions * layers * saved), self._multiplied(prompts, length))

    def _multiplied(self, prompts: int, length: int) -> int:
        """All senders' differences and the gradients of some layers' receivers, for as many prompts as `CHUNK_BYTES`
        hold, and at least for one; float64 scores of the prompts and their sums."""
        per_layer = self.graph.receivers_per_layer
        rows = self.graph.n_senders + -(-COLUMNS // per_layer) * per_layer + 1
        each = self._bytes(rows * length * self._d_model)
        return each * min(prompts, max(1, CHUNK_BYTES // each)) + 8 * 4 * (prompts + 1) * self.graph.n_edges

    def searched(self, batches: Sequence[tuple[int, int]]) -> int:
        """The recorded runs of batches of (prompts, length) while a circuit is searched in them: the clean run,
        the heads' and MLPs' differences, the senders' written differences where `DELTA_BYTES` hold them."""
        per_layer = 5 * self._d_model + 5 * self.graph.n_heads * self._head
        total = 0
        for prompts, length in batches:
            positions = prompts * length
            written = self._bytes(self.graph.n_senders * self._d_model * positions)
            total += self._bytes(positions * (self._layers * per_layer + 2 * self._d_model))
            total += written if written <= DELTA_BYTES else written // length
        return total

    @property
    def _d_model(self) -> int:
        return int(self.config.hidden_size)

    @property
    def _head(self) -> int:
        return int(getattr(self.config, "head_dim", None) or self._d_model // self.graph.n_heads)

    @property
    def _mlp_widths(self) -> int:
        """The inner widths of all MLPs together, those of experts among them."""
        config = self.config
        experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
        if not experts:
            return self._layers * self._inner
        step = getattr(config, "decoder_sparse_step", None) or 1
        plain = set(getattr(config, "mlp_only_layers", None) or ())
        n_plain = sum(layer in plain or (layer + 1) % step > 0 for layer in range(self._layers))
        each = getattr(config, "moe_intermediate_size", None) or self._inner
        mixture = experts * each + (getattr(config, "shared_expert_intermediate_size", None) or 0)
        return int(n_plain * self._inner + (self._layers - n_plain) * mixture)

    @property
    def _layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def _inner(self) -> int:
        config = self.config
        names = ("intermediate_size", "n_inner", "ffn_dim")
        return int(next(filter(None, (getattr(config, name, None) for name in names)), 4 * self._d_model))

    def _bytes(self, numbers: int) -> int:
        return BYTES[self.dtype] * numbers
