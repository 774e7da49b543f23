"""Training the GPT-2 of `dialogues-tiny`: next-token prediction on packed dialogues, drawn anew for every row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Struct
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from tools.tiny.bpe import SPECIAL, render
from tools.tiny.corpus import Dialogue, draw
from tools.tiny.training import quiet, tensor_of

__all__ = ["GPT2_RECIPE", "Recipe", "train_gpt2"]

Ids = npt.NDArray[np.int64]
# Labels of this value do not count in the loss (PyTorch's convention).
IGNORED = -100
BETAS = (0.9, 0.95)


class Recipe(Struct, frozen=True, kw_only=True):
    """The numbers of the model and of its training.

    They were compared on a ninth of the training dialogues: ``noise``, the share of input tokens that are replaced,
    keeps the model from learning by heart better than ``dropout`` does.
    """

    layers: int = 4
    hidden: int = 192
    heads: int = 6
    vocabulary: int = 2432
    max_length: int = 256
    steps: int = 2000
    rows: int = 12
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    dropout: float = 0.0
    warmup: int = 100
    noise: float = 0.1
    init_std: float = 0.06
    seed: int = 7


GPT2_RECIPE = Recipe()


def train_gpt2(dialogues: Sequence[Dialogue], tokenizer: Tokenizer, recipe: Recipe, say: Callable[[str], None]) -> Any:
    """Train from scratch and return the `GPT2LMHeadModel`, ready to evaluate. Equal seeds give equal weights."""
    quiet()
    torch.manual_seed(recipe.seed)
    model = GPT2LMHeadModel(_config(recipe))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=BETAS, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    batches = _batches(dialogues, tokenizer, recipe)
    began, losses = time.monotonic(), []
    model.train()
    for step in range(1, recipe.steps + 1):
        tokens, labels = map(tensor_of, next(batches))
        loss = model(input_ids=_noisy(tokens, recipe), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 0:
            say(f"  step {step}/{recipe.steps}  loss {np.mean(losses[-100:]):.3f}  {time.monotonic() - began:.0f} s")
    return model.eval()


def _noisy(tokens: Any, recipe: Recipe) -> Any:
    """Some tokens of the input replaced at random (special ones never), so that no context can be learned by heart."""
    chosen = (torch.rand(tokens.shape) < recipe.noise) & (tokens >= len(SPECIAL))
    return torch.where(chosen, torch.randint(len(SPECIAL), recipe.vocabulary, tokens.shape), tokens)


def _config(recipe: Recipe) -> Any:
    return GPT2Config(
        vocab_size=recipe.vocabulary,
        n_positions=recipe.max_length,
        n_embd=recipe.hidden,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        embd_pdrop=recipe.dropout,
        resid_pdrop=recipe.dropout,
        attn_pdrop=0.0,
        initializer_range=recipe.init_std,
        bos_token_id=0,
        eos_token_id=0,
    )


def _rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to 5 %."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return float(0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * done)))


def _batches(dialogues: Sequence[Dialogue], tokenizer: Tokenizer, recipe: Recipe) -> Iterator[tuple[Ids, Ids]]:
    """Batches of tokens and labels [rows, length].

    Three of four hold one dialogue a row, from position 0 as it is served; each fourth holds rows of `max_length` with
    many dialogues, so that the later positions are learned too.
    """
    rng = np.random.default_rng(recipe.seed)
    drawn = _drawn(dialogues, tokenizer, rng)
    while True:
        dialogues_by_length = sorted((next(drawn) for _ in range(3 * recipe.rows)), key=len)
        for start in range(0, len(dialogues_by_length), recipe.rows):
            yield _padded(dialogues_by_length[start : start + recipe.rows])
        rows = max(1, recipe.rows * 64 // recipe.max_length)
        tokens = np.stack([_packed(drawn, recipe.max_length) for _ in range(rows)])
        yield tokens, tokens


def _drawn(dialogues: Sequence[Dialogue], tokenizer: Tokenizer, rng: np.random.Generator) -> Iterator[list[int]]:
    """The tokens of one dialogue after another, all of them in each round, varied anew each time."""
    while True:
        for index in rng.permutation(len(dialogues)):
            yield tokenizer.encode(render(draw(dialogues[index], rng))).ids


def _padded(rows: Sequence[list[int]]) -> tuple[Ids, Ids]:
    length = max(map(len, rows))
    labels = np.array([row + [IGNORED] * (length - len(row)) for row in rows], np.int64)
    return np.maximum(labels, 0), labels


def _packed(drawn: Iterator[list[int]], length: int) -> Ids:
    row: list[int] = []
    while len(row) < length:
        row += next(drawn)
    return np.array(row[:length], np.int64)
