"""EAP and EAP-IG against the passes that they cannot do without: time, memory, growth, per-prompt scores.

The floor runs an untouched stock model. `python -m tests.benchmarks.attribution eap|stock|stock_answer` prints one
peak of memory, in a process of its own.
"""

import subprocess
import sys
from typing import Any

import torch

from pipeline.engine.patchable import PatchableModel, patchable
from pipeline.methods import Eap, EapIg
from tests.benchmarks.measure import cpu_seconds, peak_bytes, row
from tests.benchmarks.models import gpt2_small_shaped

EVERYWHERE, ANSWER = (0, "logits everywhere"), (1, "logits at the answer only")


def prompts(count: int = 8, length: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = {
        name: torch.randint(0, 60, (count, length), generator=generator) for name in ("clean", "corrupted")
    }
    ids["answers"] = torch.randint(0, 40, (count, 1), generator=generator)
    ids["wrong_answers"] = (ids["answers"] + 1) % 40
    return ids


def stock_passes(hf: Any, ids: dict[str, torch.Tensor], forwards: int, backwards: int, keep: int) -> None:
    """Stock forwards without gradients, and forward-backwards with respect to the input, weights frozen."""
    options = {"use_cache": False, "logits_to_keep": keep}
    with torch.no_grad():
        for _ in range(forwards):
            hf(input_ids=ids["clean"], **options)
    for _ in range(backwards):
        x = hf.get_input_embeddings()(ids["clean"]).detach().requires_grad_()
        logits = hf(inputs_embeds=x, **options).logits[:, -1]
        logits.gather(1, ids["answers"]).sum().backward()


def attribution_rows(model: PatchableModel, stock: Any, weights: str) -> list[dict[str, Any]]:
    """Time against the floor, 8 prompts of 32 tokens; per-prompt scores; growth with prompts and layers."""
    ids = prompts()
    batch = model.batch_from_ids(**ids)
    rows = []
    for method, forwards, backwards in ((Eap(), 1, 1), (EapIg(steps=5), 2, 5)):
        ours = cpu_seconds(lambda method=method: method.score(model, [batch]))
        for keep, logits in (EVERYWHERE, ANSWER):
            floor = cpu_seconds(
                lambda f=forwards, b=backwards, keep=keep: stock_passes(stock, ids, f, b, keep)
            )
            against = f"{forwards} stock forwards + {backwards} forward-backwards, {logits}"
            rows.append(row(f"{method.id}, B8 T32", ours / floor, "x floor", against, weights))
    summed = cpu_seconds(lambda: Eap().score(model, [batch]))
    each = cpu_seconds(lambda: Eap().score(model, [batch], per_prompt=True))
    rows.append(row("eap with per-prompt scores", each / summed, "x", "summed scores", weights))
    for count in (16, 32):
        larger = model.batch_from_ids(**prompts(count)).split(8)
        seconds = cpu_seconds(lambda larger=larger: Eap().score(model, larger))
        rows.append(row(f"eap, {count} prompts", seconds / summed, "x", "8 prompts", weights))
    return rows


def layer_rows() -> list[dict[str, Any]]:
    """Growth with layers: edges grow with their square, passes linearly."""
    seconds, edges = [], []
    for n_layers in (4, 8):
        hf, _ = gpt2_small_shaped(n_layers)
        model = patchable(hf)
        batch = model.batch_from_ids(**prompts())
        seconds.append(cpu_seconds(lambda model=model, batch=batch: Eap().score(model, [batch])))
        edges.append(model.graph.n_edges)
    note = f"{edges[1] / edges[0]:.1f} times the edges; logits of one position included"
    return [row("eap, 8 layers", seconds[1] / seconds[0], "x", "4 layers", note)]


def memory_rows() -> list[dict[str, Any]]:
    """Peak memory above what the loaded model takes, each in a fresh process."""
    ours = _peak("eap")
    rows = []
    for what, (_, logits) in (("stock", EVERYWHERE), ("stock_answer", ANSWER)):
        floor = _peak(what)
        note = f"{ours / 2**20:.0f} MiB against {floor / 2**20:.0f} MiB"
        against = f"stock forward-backward, {logits}"
        rows.append(row("eap, peak memory above weights, B8 T32", ours / floor, "x", against, note))
    return rows


def _peak(what: str) -> int:
    command = [sys.executable, "-m", "tests.benchmarks.attribution", what]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def _print_peak(what: str) -> None:
    torch.set_num_threads(1)
    hf, _ = gpt2_small_shaped()
    hf.requires_grad_(requires_grad=False)
    ids, few = prompts(), prompts(1, 4)
    if what == "eap":
        model = patchable(hf)
        Eap().score(model, [model.batch_from_ids(**few)])  # what is allocated once is not counted
        batch = model.batch_from_ids(**ids)
        print(peak_bytes(lambda: Eap().score(model, [batch])))
        return
    keep = ANSWER[0] if what == "stock_answer" else EVERYWHERE[0]
    stock_passes(hf, few, 0, 1, keep)
    print(peak_bytes(lambda: stock_passes(hf, ids, 0, 1, keep)))


if __name__ == "__main__":
    _print_peak(sys.argv[1])
