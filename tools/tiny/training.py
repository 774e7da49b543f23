"""One way to train the small Hugging Face models: AdamW, warm-up and a cosine, gradients clipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Struct
from transformers.utils import logging

__all__ = ["FitRecipe", "fit", "quiet", "tensor_of"]


class FitRecipe(Struct, frozen=True, kw_only=True):
    """The numbers of a training."""

    steps: int
    rows: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup: int = 200
    seed: int = 7


def fit(
    model: Any, loss_of: Callable[[Any], Any], batches: Iterator[Any], recipe: FitRecipe, say: Callable[[str], None]
) -> Any:
    """Train ``model`` in place on ``recipe.steps`` batches and return it, ready to evaluate."""
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    began, losses = time.monotonic(), []
    model.train()
    for step in range(1, recipe.steps + 1):
        loss = loss_of(next(batches))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 0:
            say(f"  step {step}/{recipe.steps}  loss {np.mean(losses[-100:]):.3f}  {time.monotonic() - began:.0f} s")
    return model.eval()


def tensor_of(array: npt.NDArray[Any]) -> Any:
    """The array as a tensor on the device that is trained on (``torch.set_default_device``)."""
    return torch.as_tensor(array, device=torch.get_default_device())


def quiet() -> None:
    """Keep transformers from warning of defaults that are what we want."""
    logging.set_verbosity_error()


def _groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Biases, norms and scales are not decayed."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0},
    ]


def _rate(step: int, recipe: FitRecipe) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return float(0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * done)))
