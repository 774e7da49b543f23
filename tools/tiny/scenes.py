"""Scenes: one to four handwritten digits, scaled and turned, at random places of a dark square.

What is trained on is drawn from the training digits of :mod:`tools.tiny.digits_data`, what is measured from its
held-out digits, so no image of a digit is in both.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from PIL import Image

from tools.tiny.digits_data import read_digits

__all__ = ["SIZE", "Ink", "Scene", "SceneRecipe", "batches_of", "draw_scene", "held_in_scenes", "held_out_scenes"]

Pixels = npt.NDArray[np.uint8]
Ink = tuple[Pixels, Pixels]  # the digits' pixels [digits, 8, 8], and what they are [digits]
SIZE = 48
TRIES = 12
# A pixel belongs to a digit's box when the digit, drawn at full strength, has at least this much ink there.
INK = 48


class SceneRecipe(Struct, frozen=True, kw_only=True):
    """How scenes are drawn.

    Attributes:
        counts: how many digits, least and most.
        scales: the size of a digit in its own 8 pixels, least and most.
        lone_scale: the most when a digit is alone.
        min_gap: pixels between the centres of two digits from left to right, so that their order is clear.
        max_turn: degrees.
    """

    counts: tuple[int, int] = (1, 4)
    scales: tuple[float, float] = (1.5, 2.5)
    lone_scale: float = 2.5
    min_gap: int = 0
    max_turn: float = 10.0
    max_stretch: float = 0.1


class Scene(Struct, frozen=True, kw_only=True):
    """A scene and what is in it, from left to right.

    Attributes:
        pixels: uint8 [48, 48], light ink on dark.
        labels: the digits, 0 to 9.
        boxes: float32 [digits, 4]: centre x, centre y, width and height of the ink, in shares of the scene.
    """

    pixels: Pixels
    labels: tuple[int, ...]
    boxes: npt.NDArray[np.float32]


def draw_scene(digits: Ink, recipe: SceneRecipe, rng: np.random.Generator) -> Scene:
    """A scene of digits chosen at random."""
    count = int(rng.integers(recipe.counts[0], recipe.counts[1] + 1))
    return _compose(digits, rng.integers(0, len(digits[1]), count).tolist(), recipe, rng)


def batches_of(digits: Ink, recipe: SceneRecipe, rows: int, seed: int) -> Iterator[list[Scene]]:
    """Batches of ``rows`` scenes, drawn anew without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield [draw_scene(digits, recipe, rng) for _ in range(rows)]


def held_in_scenes(recipe: SceneRecipe, count: int, seed: int) -> list[Scene]:
    """``count`` scenes of training digits, for calibration; always the same ones."""
    split, rng = read_digits(), np.random.default_rng(seed)
    return [draw_scene((split.pixels, split.labels), recipe, rng) for _ in range(count)]


def held_out_scenes(recipe: SceneRecipe, seed: int) -> list[Scene]:
    """Scenes in which each of the held-out digits is once; always the same ones."""
    rng, held_out = np.random.default_rng(seed), read_digits().held_out
    digits = (held_out.pixels, held_out.labels)
    rest, scenes = rng.permutation(len(digits[1])).tolist(), []
    while rest:
        count = int(rng.integers(recipe.counts[0], recipe.counts[1] + 1))
        scenes.append(_compose(digits, rest[:count], recipe, rng))
        rest = rest[count:]
    return scenes


def _compose(digits: Ink, chosen: list[int], recipe: SceneRecipe, rng: np.random.Generator) -> Scene:
    corners = _places(len(chosen), recipe, rng)
    canvas, boxes = np.zeros((SIZE, SIZE), np.float32), []
    for index, (left, top, side) in zip(chosen, corners, strict=True):
        drawn = _drawn(digits[0][index], side, recipe, rng)
        part = canvas[top : top + side, left : left + side]
        np.maximum(part, drawn, out=part)
        boxes.append(_box(drawn, left, top))
    order = sorted(range(len(chosen)), key=lambda at: float(boxes[at][0]))
    return Scene(
        pixels=_exposed(canvas, rng),
        labels=tuple(int(digits[1][chosen[at]]) for at in order),
        boxes=np.array([boxes[at] for at in order], np.float32),
    )


def _places(count: int, recipe: SceneRecipe, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Left, top and side of ``count`` squares that do not overlap."""
    while True:
        placed: list[tuple[int, int, int]] = []
        for _ in range(count * TRIES):
            square = _square(recipe, count, rng)
            if all(_apart(square, other, recipe.min_gap) for other in placed):
                placed.append(square)
            if len(placed) == count:
                return placed


def _square(recipe: SceneRecipe, count: int, rng: np.random.Generator) -> tuple[int, int, int]:
    most = recipe.lone_scale if count == 1 else recipe.scales[1]
    side = min(SIZE, round(8 * rng.uniform(recipe.scales[0], most)))
    return int(rng.integers(0, SIZE - side + 1)), int(rng.integers(0, SIZE - side + 1)), side


def _apart(one: tuple[int, int, int], other: tuple[int, int, int], min_gap: int) -> bool:
    (left, top, side), (left2, top2, side2) = one, other
    overlap = left < left2 + side2 and left2 < left + side and top < top2 + side2 and top2 < top + side
    return not overlap and abs(2 * left + side - 2 * left2 - side2) >= 2 * min_gap


def _drawn(pixels: Pixels, side: int, recipe: SceneRecipe, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """One digit as ink 0..255 [side, side], stretched and turned a little within its square."""
    wide, high = (round(side * (1 - recipe.max_stretch * rng.random())) for _ in range(2))
    image = Image.fromarray(pixels).resize((wide, high), Image.Resampling.BILINEAR)
    square = Image.new("L", (side, side))
    square.paste(image, ((side - wide) // 2, (side - high) // 2))
    turned = square.rotate(rng.uniform(-recipe.max_turn, recipe.max_turn), Image.Resampling.BILINEAR)
    return np.asarray(turned, np.float32)


def _box(drawn: npt.NDArray[np.float32], left: int, top: int) -> npt.NDArray[np.float32]:
    across, down = (np.flatnonzero((drawn >= INK).any(axis=axis)) for axis in (0, 1))
    wide, high = across[-1] + 1 - across[0], down[-1] + 1 - down[0]
    box = np.array([left + across[0] + wide / 2, top + down[0] + high / 2, wide, high], np.float32)
    return box / np.float32(SIZE)


def _exposed(canvas: npt.NDArray[np.float32], rng: np.random.Generator) -> Pixels:
    """Ink and ground at a random brightness, with a little noise."""
    ground, ink = rng.uniform(0, 50), rng.uniform(170, 255)
    noise = rng.normal(0, rng.uniform(0, 6), canvas.shape)
    return np.clip(ground + canvas / 255 * (ink - ground) + noise, 0, 255).astype(np.uint8)
