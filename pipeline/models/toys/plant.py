"""Writes `toy:planted`: a stock GPT-2 whose weights hold an induction circuit planted by hand.

    python -m pipeline.models.toys.plant FOLDER

Knows which head does what, so the edges of the circuit are known before anything is measured. Does not know
tasks.

The residual stream holds a vector x as [x, -x], so that its mean is zero; LayerNorm has epsilon 1e10 and gain
1e5 and is the identity up to 1e-9. Nothing couples one part of x to another but the weights below. Its parts:

    token     what the word here is          (written by the embedding)
    position  where it is                    (written by the embedding)
    previous  what the word before it is     (written by a0.h2)
    next      which word should come next    (written by a1.h1, a2.h3, m2; the unembedding reads it alone)
    junk      what distractors write         (read by distractors alone)

Words and positions are signed unit vectors: word w is +e_w, word w + 12 is -e_w; positions likewise.
The other nine heads, m0, m1 and a quarter of m2 are distractors: random weights that read everything, but
write junk. So no path leads from them to the logits; patching an edge from or to them changes nothing.
"""

import json
import math
import sys
from pathlib import Path

import torch
from torch import Tensor

N_LAYERS, N_HEADS = 3, 4
CODE = 12  # dimensions of a word's or a position's code; twice as many words and positions
JUNK = 8
D_HALF = 4 * CODE + JUNK
D_MODEL = 2 * D_HALF
D_HEAD = D_MODEL // N_HEADS
N_INNER = 2 * CODE + JUNK
N_POSITIONS = 2 * CODE
TOKEN, POSITION, PREVIOUS, NEXT = (slice(i * CODE, (i + 1) * CODE) for i in range(4))
JUNK_PART = slice(4 * CODE, D_HALF)

_WORDS = """
    red blue green tree book rain snow wind sun moon star fire
    water river hill sea boat car door fish horse cat dog bird
"""
WORDS = tuple(_WORDS.split())
SPECIAL = ("[unk]", "[pad]")

PREVIOUS_TOKEN_HEAD = (0, 2)
# head, sharpness of its attention (score of a match before the softmax), strength of what it writes
INDUCTION_HEADS = {(1, 1): (6.0, 1.0), (2, 3): (5.0, 0.5)}
POSITION_SHARPNESS = 8.0
UNEMBEDDING_GAIN = 2.0
LN_GAIN = 1e5
DISTRACTION = 0.25  # size of what distractors write
SHARPENING_MLP = 2
THRESHOLD = 0.25  # m2 adds what exceeds this much evidence


def known_edges() -> list[str]:
    """The circuit's edges, from what reads what above; in the order of the graph's names."""
    previous = "a{}.h{}".format(*PREVIOUS_TOKEN_HEAD)
    mlp = f"m{SHARPENING_MLP}"
    edges = [f"input->{previous}<v>"]
    for layer, head in INDUCTION_HEADS:
        name = f"a{layer}.h{head}"
        edges += [f"input->{name}<q>", f"{previous}->{name}<k>", f"input->{name}<v>"]
        edges += [f"{name}->{mlp}", f"{name}->logits"]
    return [*edges, f"{mlp}->logits"]


def codes() -> Tensor:
    """The signed unit vectors [2 x CODE, CODE]: row w and row w + CODE are opposite."""
    return torch.cat([torch.eye(CODE), -torch.eye(CODE)])


def both(half: Tensor) -> Tensor:
    """What is written to x, written to both halves of the residual stream [.., D_MODEL]."""
    return torch.cat([half, -half], dim=-1)


def planted_weights(seed: int = 0) -> dict[str, Tensor]:
    """The state dict of the GPT2LMHeadModel."""
    random = torch.Generator().manual_seed(seed)
    words = torch.zeros(len(WORDS) + len(SPECIAL), D_HALF)
    words[: len(WORDS), TOKEN] = codes()
    positions = torch.zeros(N_POSITIONS, D_HALF)
    positions[:, POSITION] = codes()
    unembedding = torch.zeros(len(words), D_MODEL)
    unembedding[: len(WORDS), NEXT] = UNEMBEDDING_GAIN * codes()
    weights = {
        "transformer.wte.weight": both(words),
        "transformer.wpe.weight": both(positions),
        "lm_head.weight": unembedding,
        "transformer.ln_f.weight": torch.full((D_MODEL,), LN_GAIN),
        "transformer.ln_f.bias": torch.zeros(D_MODEL),
    }
    for layer in range(N_LAYERS):
        block = f"transformer.h.{layer}."
        for norm in ("ln_1", "ln_2"):
            weights[f"{block}{norm}.weight"] = torch.full((D_MODEL,), LN_GAIN)
            weights[f"{block}{norm}.bias"] = torch.zeros(D_MODEL)
        q, k, v, o = (torch.zeros(N_HEADS, D_MODEL, D_HEAD) for _ in range(4))
        for head in range(N_HEADS):
            q[head], k[head], v[head], o[head] = _head(layer, head, random)
        qkv = [part.permute(1, 0, 2).reshape(D_MODEL, D_MODEL) for part in (q, k, v)]
        weights[f"{block}attn.c_attn.weight"] = torch.cat(qkv, dim=1)
        weights[f"{block}attn.c_attn.bias"] = torch.zeros(3 * D_MODEL)
        weights[f"{block}attn.c_proj.weight"] = o.permute(0, 2, 1).reshape(D_MODEL, D_MODEL)
        weights[f"{block}attn.c_proj.bias"] = torch.zeros(D_MODEL)
        read, bias, write = _mlp(layer, random)
        weights[f"{block}mlp.c_fc.weight"] = read
        weights[f"{block}mlp.c_fc.bias"] = bias
        weights[f"{block}mlp.c_proj.weight"] = write
        weights[f"{block}mlp.c_proj.bias"] = torch.zeros(D_MODEL)
    return {name: tensor.contiguous() for name, tensor in weights.items()}


def _head(layer: int, head: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a head's q, k and v read, and what it writes: four matrices [D_MODEL, D_HEAD]."""
    if (layer, head) == PREVIOUS_TOKEN_HEAD:
        # The position before p: e_{p-1}, and from the first code back to the last, which is -e_{CODE-1}.
        step = torch.roll(torch.eye(CODE), -1, dims=1)
        step[0, CODE - 1] = -1.0
        q = _reads(POSITION, step, POSITION_SHARPNESS)
        return q, _reads(POSITION), _reads(TOKEN), _writes(PREVIOUS)
    if (layer, head) in INDUCTION_HEADS:
        sharpness, strength = INDUCTION_HEADS[layer, head]
        return _reads(TOKEN, gain=sharpness), _reads(PREVIOUS), _reads(TOKEN), _writes(NEXT, strength)
    q, k, v = (torch.randn(D_MODEL, D_HEAD, generator=random) / math.sqrt(CODE) for _ in range(3))
    out = torch.zeros(D_HALF, D_HEAD)
    out[JUNK_PART] = DISTRACTION * torch.randn(JUNK, D_HEAD, generator=random) / math.sqrt(D_HEAD)
    return q, k, v, both(out.T).T


def _reads(part: slice, matrix: Tensor | None = None, gain: float = 0.0) -> Tensor:
    """A head's reading of one part of x; with `gain`, scaled to be that score at a match after 1/sqrt(d)."""
    weight = torch.zeros(D_MODEL, D_HEAD)
    weight[part, :CODE] = torch.eye(CODE) if matrix is None else matrix
    return weight * (gain * math.sqrt(D_HEAD) if gain else 1.0)


def _writes(part: slice, strength: float = 1.0) -> Tensor:
    half = torch.zeros(D_HALF, D_HEAD)
    half[part, :CODE] = strength * torch.eye(CODE)
    return both(half.T).T


def _mlp(layer: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What an MLP reads [D_MODEL, N_INNER], its bias, and what it writes [N_INNER, D_MODEL]."""
    read = torch.randn(D_MODEL, N_INNER, generator=random) / math.sqrt(CODE)
    bias = torch.randn(N_INNER, generator=random) / 4
    write = torch.zeros(N_INNER, D_HALF)
    write[:, JUNK_PART] = DISTRACTION * torch.randn(N_INNER, JUNK, generator=random) / math.sqrt(N_INNER)
    if layer == SHARPENING_MLP:
        units = slice(0, 2 * CODE)  # one per word; the rest stay distractors
        read[:, units] = 0.0
        read[NEXT, units] = 2 * codes().T
        bias[units] = -2 * THRESHOLD
        write[units] = 0.0
        write[units, NEXT] = codes() / 2
    return read, bias, both(write)


def write_folder(folder: Path) -> None:
    """Saves model, tokenizer and circuit.json to `folder`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from pipeline.models.toys.word_tokenizer import word_tokenizer

    config = GPT2Config(
        vocab_size=len(WORDS) + len(SPECIAL), n_positions=N_POSITIONS, n_embd=D_MODEL, n_layer=N_LAYERS,
        n_head=N_HEADS, n_inner=N_INNER, activation_function="gelu_new", layer_norm_epsilon=LN_GAIN**2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=len(WORDS) + 1,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    model.load_state_dict(planted_weights())
    model.save_pretrained(folder)
    word_tokenizer([*WORDS, *SPECIAL], max_length=N_POSITIONS).save_pretrained(folder)
    facts = {
        "edges": known_edges(),
        "n_edges_total": 17 + 82 + 147 + 16,
        "task": "induction",
        "ablation": "corrupted",
        "why": "the edges along which something that differs between clean and corrupted prompts reaches "
        "the logits. input->a0.h2<q> and input->a0.h2<k> carry positions alone, which never differ, so they "
        "are not among them; all other heads and MLPs write to dimensions that only they read.",
    }
    (folder / "circuit.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]))
