from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tools.tiny.digits_data import read_digits
from tools.tiny.scenes import INK, SIZE, Scene, SceneRecipe, batches_of, held_in_scenes, held_out_scenes

CROWDED = SceneRecipe(counts=(4, 4))
ORDERED = SceneRecipe(counts=(1, 3), min_gap=6, lone_scale=7.0)
HELD_OUT = read_digits().held_out


def corners(scene: Scene) -> np.ndarray:
    half = scene.boxes[:, 2:] / 2
    return np.concatenate([scene.boxes[:, :2] - half, scene.boxes[:, :2] + half], axis=1) * SIZE


def test_every_held_out_digit_is_in_one_scene_and_no_other_digit_is() -> None:
    labels = Counter(label for scene in held_out_scenes(ORDERED, 3) for label in scene.labels)
    assert labels == Counter(HELD_OUT.labels.tolist())


def test_equal_seeds_draw_equal_scenes() -> None:
    one, other = (held_in_scenes(ORDERED, 3, seed=1) for _ in range(2))
    assert all((a.pixels == b.pixels).all() and a.labels == b.labels for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("recipe", [CROWDED, ORDERED], ids=["crowded", "ordered"])
def test_boxes_are_within_the_scene_and_do_not_overlap(recipe: SceneRecipe) -> None:
    for scene in held_in_scenes(recipe, 30, seed=2):
        boxes = corners(scene)
        assert boxes.min() >= -1e-4
        assert boxes.max() <= SIZE + 1e-4
        for at, (left, top, right, bottom) in enumerate(boxes):
            for left2, top2, right2, bottom2 in boxes[:at]:
                assert min(right, right2) <= max(left, left2) + 1e-4 or min(bottom, bottom2) <= max(top, top2) + 1e-4


def test_the_ink_is_inside_the_boxes() -> None:
    for scene in held_in_scenes(CROWDED, 20, seed=3):
        outside = scene.pixels.astype(float)
        for left, top, right, bottom in np.rint(corners(scene)).astype(int):
            assert scene.pixels[top:bottom, left:right].max() > 100
            outside[top:bottom, left:right] = 0
        # The ground, its noise and the faint edge of a stroke, at most.
        assert outside.max() < 50 + 6 * 5 + INK


def test_labels_and_boxes_go_from_left_to_right_with_a_clear_gap() -> None:
    for scene in held_in_scenes(ORDERED, 40, seed=4):
        assert len(scene.labels) == len(scene.boxes)
        assert (np.diff(scene.boxes[:, 0]) > 0).all()


def test_a_lone_digit_may_fill_the_scene() -> None:
    lone = SceneRecipe(counts=(1, 1), lone_scale=7.0)
    heights = [scene.boxes[0, 3] for scene in held_in_scenes(lone, 60, seed=5)]
    assert max(heights) > 0.8
    assert min(heights) < 0.4


def test_batches_go_on_with_new_scenes() -> None:
    split = read_digits()
    batches = batches_of((split.pixels, split.labels), ORDERED, rows=2, seed=6)
    first, second = next(batches), next(batches)
    assert len(first) == len(second) == 2
    assert not (first[0].pixels == second[0].pixels).all()
