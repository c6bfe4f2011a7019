"""Trains `toy:trained`: a small GPT-2 that does ioi, induction and greater_than, as the tasks generate them.

    python -m pipeline.tasks.train_toy FOLDER        (about ten minutes on one CPU core)

Knows the three tasks and a training loop. Nothing imports this file: it is how the weights came about.
Each step sees new prompts; the tasks' seeds start at 1000 here, so those of smaller seeds are fresh.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.prompts import PromptPair
from pipeline.models.tokens import tokenise
from pipeline.models.toys.word_tokenizer import word_tokenizer
from pipeline.tasks import GreaterThan, Induction, Ioi
from pipeline.tasks.base import Task
from pipeline.tasks.greater_than import NOUNS, SENTENCE
from pipeline.tasks.induction import WORDS
from pipeline.tasks.ioi import NAMES, OBJECTS, PLACES, TEMPLATES

N_LAYERS, N_HEADS, D_MODEL, N_INNER, N_POSITIONS = 3, 4, 64, 256, 48
N_NAMES, N_WORDS, N_NOUNS = 40, 60, 16
FIRST_SEED = 1000
LENGTHS = range(6, 13)  # of induction prompts; the task's default is among them
IGNORED = -100  # a target that is none


@dataclass(frozen=True)
class Examples:
    """Token ids [prompt, pos], right-padded, and what should follow each position.

    `targets` [prompt, pos] is one token or IGNORED; `answers` bool [prompt, vocabulary] is the set of equally
    good tokens at the position `last` of each prompt.
    """

    ids: Tensor
    targets: Tensor
    answers: Tensor
    last: Tensor


def vocabulary() -> list[str]:
    """The words of the three tasks, fewer names and nouns than they know, and all numbers of two digits."""
    sentences = " ".join([*TEMPLATES, SENTENCE])
    for gap in ("{0}", "{1}", "{s}", "{place}", "{object}", "{noun}", "{year}", "{stem}"):
        sentences = sentences.replace(gap, " ")
    words = sentences.replace(".", " . ").replace(",", " , ").split()
    chosen = [*NAMES[:N_NAMES], *PLACES, *OBJECTS, *NOUNS[:N_NOUNS], *WORDS[-N_WORDS:]]
    numbers = [f"{n:02d}" for n in range(100)]
    return list(dict.fromkeys(["[unk]", "[pad]", *words, *chosen, *numbers]))


def batches(tokenizer: Any, per_task: int, seed: int) -> Iterator[Examples]:
    """Endless examples, `per_task` prompts of each task and as many repeated random sequences at a time."""
    rng = np.random.default_rng(seed)
    plain = np.asarray([i for word, i in tokenizer.get_vocab().items() if word[0] not in "[.,"])
    drawn = FIRST_SEED
    while True:
        # Prompts are written for eight steps at a time: finding a tokenizer's words costs more than a prompt.
        count, length = 8 * per_task, int(rng.choice(LENGTHS))
        tasks: tuple[Task, ...] = (
            Ioi(count=count, seed=drawn),
            Induction(count=count, seed=drawn, length=length),
            GreaterThan(count=count, seed=drawn),
        )
        pairs = [task.pairs(tokenizer, 0) for task in tasks]
        drawn += 1
        for i in range(0, 8 * per_task, per_task):
            prompts = [pair for some in pairs for pair in some[i : i + per_task]]
            yield _examples(tokenizer, prompts, [_repeated(rng, plain) for _ in range(per_task)])


def _repeated(rng: np.random.Generator, plain: np.ndarray) -> list[int]:
    """A random sequence, twice: the plainest reason to learn induction."""
    once = rng.choice(plain, size=int(rng.integers(4, 12)), replace=False)
    return [int(i) for i in (*once, *once)]


def _examples(tokenizer: Any, pairs: list[PromptPair], repeated: list[list[int]]) -> Examples:
    words = tokenizer.get_vocab()
    prompts = [*tokenizer([pair.clean for pair in pairs])["input_ids"], *repeated]
    shape = (len(prompts), max(map(len, prompts)))
    ids = torch.full(shape, tokenizer.pad_token_id)
    targets = torch.full(shape, IGNORED)
    answers = torch.zeros(len(pairs), len(tokenizer), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
        if row < len(pairs):
            right = [words[a.strip()] if isinstance(a, str) else a for a in pairs[row].answers]
            answers[row, right] = True
        else:
            half = len(prompt) // 2
            targets[row, half : len(prompt) - 1] = ids[row, half + 1 : len(prompt)]
    last = torch.tensor([len(prompt) - 1 for prompt in prompts[: len(pairs)]])
    return Examples(ids, targets, answers, last)


def loss_of(model: nn.Module, examples: Examples) -> Tensor:
    """Cross-entropy to the uniform distribution over the answers, plus that of the repeated sequences.

    Uniform, because "any later year" is otherwise learned as "always 99".
    """
    # Padding is on the right, where a causal model does not see it: no mask is needed, all ones says so.
    logits = model(examples.ids, attention_mask=torch.ones_like(examples.ids)).logits
    at_answer = logits[torch.arange(len(examples.last)), examples.last].log_softmax(-1)
    wanted = examples.answers / examples.answers.sum(-1, keepdim=True)
    answered = -(at_answer * wanted).sum(-1) - torch.log(examples.answers.sum(-1))
    repeated = F.cross_entropy(logits.flatten(0, 1), examples.targets.flatten(), ignore_index=IGNORED)
    return answered.mean() + repeated / 4


@torch.no_grad()
def accuracy(model: nn.Module, tokenizer: Any, task: Task, seed: int) -> float:
    """Share of prompts whose best answer has a higher logit than the best wrong answer."""
    right = []
    for pair in tokenise(task.pairs(tokenizer, seed), tokenizer, needs_wrong=True):
        logits = model(torch.tensor([pair.clean])).logits[0, -1]
        right.append(bool(logits[list(pair.answers)].max() > logits[list(pair.wrong_answers)].max()))
    return float(np.mean(right))


def train(folder: Path, steps: int = 5000, per_task: int = 32, rate: float = 2e-3, seed: int = 0) -> None:
    """Trains on one thread, prints accuracy on fresh prompts as it goes, saves model and tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    words = vocabulary()
    tokenizer = word_tokenizer(words, max_length=N_POSITIONS)
    config = GPT2Config(
        vocab_size=len(words), n_positions=N_POSITIONS, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS,
        n_inner=N_INNER, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = 200
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / warm_up, math.cos(math.pi / 2 * step / (steps + warm_up)) ** 2)
    )
    start = time.monotonic()
    for step, examples in zip(range(1, steps + 1), batches(tokenizer, per_task, seed), strict=False):
        loss = loss_of(model, examples)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 0 or step == steps:
            tasks = (Ioi(count=200), Induction(count=200), GreaterThan(count=200))
            shares = "  ".join(f"{task.name} {accuracy(model, tokenizer, task, seed):.3f}" for task in tasks)
            seconds = time.monotonic() - start
            print(f"step {step}  {seconds:.0f} s  loss {loss.item():.3f}  {shares}", flush=True)  # noqa: T201
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train toy:trained.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=5000)
    arguments = parser.parse_args()
    train(arguments.folder, arguments.steps)
