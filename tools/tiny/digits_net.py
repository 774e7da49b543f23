"""The convolutional net of `digits-tiny` and its training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from msgspec import Struct
from torch import nn
from torch.nn import functional

from tools.tiny.digits_data import DigitsSplit
from tools.tiny.training import tensor_of

__all__ = ["DIGITS_RECIPE", "DigitsRecipe", "train_digits"]


class DigitsRecipe(Struct, frozen=True, kw_only=True):
    """The numbers of the net and of its training."""

    widths: tuple[int, int, int] = (32, 32, 64)
    epochs: int = 80
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    max_turn: float = 0.18
    max_shift: float = 0.15
    max_scale: float = 0.12
    seed: int = 11


DIGITS_RECIPE = DigitsRecipe()


def train_digits(split: DigitsSplit, recipe: DigitsRecipe, say: Callable[[str], None]) -> Any:
    """Train from scratch and return the net, ready to evaluate; input float32 [N, 1, 8, 8] in [0, 1]."""
    torch.manual_seed(recipe.seed)
    net = _net(recipe)
    pixels = tensor_of(split.pixels).float().unsqueeze(1) / 255
    labels = tensor_of(split.labels).long()
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(labels) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    for epoch in range(1, recipe.epochs + 1):
        for rows in torch.randperm(len(labels)).split(recipe.batch):
            loss = functional.cross_entropy(net(_varied(pixels[rows], recipe)), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if epoch % 20 == 0:
            say(f"  epoch {epoch}/{recipe.epochs}  loss {loss.item():.3f}")
    return net.eval().to("cpu")


def _net(recipe: DigitsRecipe) -> Any:
    first, second, third = recipe.widths
    return nn.Sequential(
        *_conv(1, first),
        *_conv(first, second),
        nn.MaxPool2d(2),
        *_conv(second, third),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(third * 2 * 2, 10),
    )


def _conv(width_in: int, width_out: int) -> list[Any]:
    return [nn.Conv2d(width_in, width_out, 3, padding=1), nn.BatchNorm2d(width_out), nn.ReLU()]


def _varied(pixels: Any, recipe: DigitsRecipe) -> Any:
    """Each digit turned (radians), scaled and shifted (shares of its size) a little."""
    count = len(pixels)
    turn = (2 * torch.rand(count) - 1) * recipe.max_turn
    scale = 1 + (2 * torch.rand(count) - 1) * recipe.max_scale
    shift = (2 * torch.rand(count, 2) - 1) * recipe.max_shift * 2
    cosine, sine = torch.cos(turn) * scale, torch.sin(turn) * scale
    matrix = torch.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], dim=1).view(count, 2, 3)
    grid = functional.affine_grid(matrix, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False)
