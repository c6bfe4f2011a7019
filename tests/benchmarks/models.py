"""The benchmark's model: GPT-2 small's shape with a trained, sparse circuit, embedded exactly from a narrower model.

Without the trained weights a random model of the same shape stands in, and the row says so.
"""

import os
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

N_LAYERS, N_HEADS, D_NARROW, D_MODEL, D_HEAD, D_MLP, VOCAB = 12, 12, 192, 768, 64, 3072, 50257
TILES = D_MODEL // D_NARROW
NAMES, FILLERS, BOS, CUE = 40, range(40, 60), 60, 61


def gpt2_small_shaped(n_layers: int = N_LAYERS) -> tuple[GPT2LMHeadModel, str]:
    """The model in evaluation mode, and the name of its weights for the table."""
    wide = gpt2_small_random(n_layers)
    folder = Path(os.environ.get("CIRCUITS_DATA", "../shared")) / "models" / "bench-12l-d192"
    if not folder.is_dir() or n_layers != N_LAYERS:
        return wide, "random stand-in"
    narrow = GPT2LMHeadModel.from_pretrained(folder).eval()
    _embed(narrow, wide)
    return wide, "trained, embedded from d 192"


def gpt2_small_random(n_layers: int = N_LAYERS) -> GPT2LMHeadModel:
    """The same shape with random weights, always the same."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=n_layers,
        n_head=N_HEADS,
        n_embd=D_MODEL,
        vocab_size=VOCAB,
        n_positions=64,
        tie_word_embeddings=False,
    )
    return GPT2LMHeadModel(config).eval()


@torch.no_grad()
def _embed(narrow: GPT2LMHeadModel, wide: GPT2LMHeadModel) -> None:
    """Tiles the residual stream: what reads it divides by the number of tiles, what writes it is repeated."""
    source, target = narrow.transformer, wide.transformer
    for parameter in wide.parameters():
        parameter.zero_()
    vocab = source.wte.weight.shape[0]
    token = torch.arange(VOCAB) % vocab
    target.wte.weight.copy_(_tiled(source.wte.weight)[token])
    length = min(len(source.wpe.weight), len(target.wpe.weight))
    target.wpe.weight[:length] = _tiled(source.wpe.weight)[:length]
    for old, new in zip(source.h, target.h, strict=True):
        for name in ("ln_1", "ln_2"):
            _copy_norm(getattr(old, name), getattr(new, name))
        d_head = D_NARROW // N_HEADS
        weight = _tiled(old.attn.c_attn.weight.T).T.reshape(D_MODEL, 3, N_HEADS, d_head) / TILES
        bias = old.attn.c_attn.bias.reshape(3, N_HEADS, d_head)
        scale = torch.tensor([(D_HEAD / d_head) ** 0.5, 1.0, 1.0])
        new.attn.c_attn.weight.view(D_MODEL, 3, N_HEADS, D_HEAD)[..., :d_head] = weight * scale[:, None, None]
        new.attn.c_attn.bias.view(3, N_HEADS, D_HEAD)[..., :d_head] = bias * scale[:, None, None]
        out = _tiled(old.attn.c_proj.weight).reshape(N_HEADS, d_head, D_MODEL)
        new.attn.c_proj.weight.view(N_HEADS, D_HEAD, D_MODEL)[:, :d_head] = out
        new.attn.c_proj.bias.copy_(_tiled(old.attn.c_proj.bias))
        width = old.mlp.c_fc.weight.shape[1]
        new.mlp.c_fc.weight[:, :width] = _tiled(old.mlp.c_fc.weight.T).T / TILES
        new.mlp.c_fc.bias[:width] = old.mlp.c_fc.bias
        new.mlp.c_proj.weight[:width] = _tiled(old.mlp.c_proj.weight)
        new.mlp.c_proj.bias.copy_(_tiled(old.mlp.c_proj.bias))
    _copy_norm(source.ln_f, target.ln_f)
    wide.lm_head.weight.copy_(_tiled(narrow.lm_head.weight)[token] / TILES)


def _tiled(x: Tensor) -> Tensor:
    return x.repeat(*[1] * (x.ndim - 1), TILES)


def _copy_norm(old: torch.nn.LayerNorm, new: torch.nn.LayerNorm) -> None:
    new.weight.copy_(_tiled(old.weight))
    new.bias.copy_(_tiled(old.bias))


def ioi_like(n_prompts: int, seed: int = 0) -> dict[str, Tensor]:
    """Prompts `BOS f A f B f f S f CUE -> IO`; corrupted: all three names replaced."""
    generator = torch.Generator().manual_seed(seed)

    def filler() -> int:
        return int(torch.randint(FILLERS.start, FILLERS.stop, (1,), generator=generator))

    rows: dict[str, list[list[int]]] = {"clean": [], "corrupted": [], "answers": [], "wrong_answers": []}
    for _ in range(n_prompts):
        a, b, *others = torch.randperm(NAMES, generator=generator)[:5].tolist()
        subject_first = bool(torch.randint(2, (1,), generator=generator))
        subject, io = (a, b) if subject_first else (b, a)
        f = [filler() for _ in range(5)]
        names = ((a, b, subject), tuple(others))
        for key, (x, y, s) in zip(("clean", "corrupted"), names, strict=True):
            rows[key].append([BOS, f[0], x, f[1], y, f[2], f[3], s, f[4], CUE])
        rows["answers"].append([io])
        rows["wrong_answers"].append([subject])
    return {key: torch.tensor(value) for key, value in rows.items()}
