"""Shapes of real models: a random 1B Llama against its stock passes and against what `plan` says, 70B by plan alone.

Each in a process of its own: `python -m tests.benchmarks.large float32|bfloat16|plan` prints rows as JSON. The
largest holds 5 GiB of weights, once: the stock model is timed before it is wrapped.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.benchmarks.measure import row

# Prompts, tokens, and the methods with their stock passes.
EAP, EAP_IG = ("eap", 1, 1), ("eap_ig", 2, 5)
WORK = {"float32": (4, 16, (EAP, EAP_IG)), "bfloat16": (4, 16, (EAP, EAP_IG))}
ANSWER = 1  # logits to keep
GIB = 2**30
SEVENTY = {  # Llama 3.1 70B
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
PUBLISHED = 2 * 70_553_706_496  # bytes of its weights

Row = tuple[str, float, str, str, str]  # what, value, unit, against, note


def large_rows() -> list[dict[str, Any]]:
    """1B, then 70B's plan."""
    rows = [row(*one) for dtype in WORK for one in _printed(dtype)]
    return [*rows, *(row(*one) for one in _printed("plan"))]


def _printed(what: str) -> list[Row]:
    command = [sys.executable, "-m", "tests.benchmarks.large", what]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [tuple(one) for one in json.loads(done.stdout.splitlines()[-1])]


def _measured(dtype: str) -> Iterator[Row]:
    import torch

    from pipeline.engine.patchable import patchable
    from pipeline.methods import Eap, EapIg
    from pipeline.models.footprint import Footprint
    from tests.benchmarks.attribution import stock_passes
    from tests.benchmarks.measure import cpu_seconds, peak_bytes
    from tests.gpu.kit import Kit
    from tests.gpu.shapes import prompts, stock

    torch.set_num_threads(1)
    kit = Kit(torch.device("cpu"), float("inf"))
    plain = stock("1b", kit, dtype)
    count, length, asked = WORK[dtype]
    few, batch = prompts(plain.config, kit, 1, 4), prompts(plain.config, kit, count, length)
    first, ids = ({"clean": each.clean, "answers": each.answers} for each in (few, batch))
    stock_passes(plain, first, 1, 1, ANSWER)
    floors = {
        name: cpu_seconds(lambda f=f, b=b: stock_passes(plain, ids, f, b, ANSWER), 1) for name, f, b in asked
    }
    model = patchable(plain)
    footprint = Footprint(model.config, model.graph, dtype)
    held = sum(parameter.numel() * parameter.element_size() for parameter in model.hf.parameters())
    yield f"planned weights of 1B, {dtype}", footprint.weights() / held, "x", "held", f"{held / GIB:.2f} GiB"
    Eap().score(model, [few])  # what is allocated once is not counted
    for name, forwards, backwards in asked:
        method, what = (
            Eap() if name == "eap" else EapIg(steps=backwards),
            f"{name}, 1B {dtype}, B{count} T{length}",
        )
        start = time.process_time()
        peak = peak_bytes(lambda method=method: method.score(model, [batch]))
        ours, floor = time.process_time() - start, floors[name]
        against = f"{forwards} stock forwards + {backwards} forward-backwards, logits at the answer"
        yield what, ours / floor, "x floor", against, f"{ours:.1f} and {floor:.1f} CPU s"
        planned = footprint.passes(count, length, getattr(method, "steps", 1))
        note = f"{planned / GIB:.2f} and {peak / GIB:.2f} GiB"
        yield f"planned memory of {what}", planned / peak, "x", "peak above weights", note


def _planned() -> Iterator[Row]:
    """What `plan` says of a config alone."""
    from transformers import LlamaConfig

    from pipeline.core.graph import Graph
    from pipeline.models.footprint import Footprint
    from tests.benchmarks.measure import peak_bytes

    config = LlamaConfig(**SEVENTY)
    found: list[int] = []

    def plan() -> None:
        graph = Graph(config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads)
        footprint = Footprint(config, graph, "bfloat16")
        work = footprint.passes(8, 32)
        found.extend((graph.n_edges, footprint.weights(), work))

    start = time.process_time()
    peak = peak_bytes(plan)
    edges, weights, work = found
    note = f"{edges:,} edges; {time.process_time() - start:.2f} CPU s and {peak / 2**20:.0f} MiB to plan"
    yield (
        "plan of 70B, bfloat16: weights",
        weights / PUBLISHED,
        "x",
        "Llama 3.1's files",
        f"{weights / GIB:.1f} GiB",
    )
    yield (
        "plan of 70B, bfloat16: work beside them, B8 T32",
        work / GIB,
        "GiB",
        "estimate",
        note,
    )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    made = _planned() if sys.argv[1] == "plan" else _measured(sys.argv[1])
    print(json.dumps(list(made)))
