"""Every spelling of preprocessor_config.json, as the files of real models have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ModelError
from pipeline.factory.images.spec import parse_pixel_input, read_pixel_input

HALF: dict[str, Any] = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
FIRST = "preprocessor_config.json"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({"size": 224}, (224, 224, 224, "stretch", "bilinear"), id="ViT of 2021"),
        pytest.param({"size": {"height": 384, "width": 224}}, (384, 224, 384, "stretch", "bilinear"), id="ViT now"),
        pytest.param({"size": [240, 320], "resample": 0}, (240, 320, 320, "stretch", "nearest"), id="a pair"),
        pytest.param(
            {"size": 256, "crop_size": 224, "do_center_crop": True, "resample": 3},
            (224, 224, 256, "crop", "bicubic"),
            id="CLIP of 2021",
        ),
        pytest.param(
            {
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 192},
                "do_center_crop": True,
                "image_processor_type": "CLIPImageProcessor",
            },
            (224, 192, 256, "crop", "bicubic"),
            id="CLIP now",
        ),
        pytest.param(
            {"size": 224, "crop_size": 200, "do_center_crop": False},
            (224, 224, 224, "stretch", "bilinear"),
            id="no crop",
        ),
        pytest.param(
            {"size": 224, "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor", "resample": 3},
            (224, 224, 256, "crop", "bicubic"),
            id="ResNet",
        ),
        pytest.param(
            {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "image_processor_type": "ConvNextImageProcessor"},
            (384, 384, 384, "stretch", "bicubic"),
            id="ConvNeXT, large",
        ),
        pytest.param({"size": 800, "max_size": 1333}, (800, 800, 800, "stretch", "bilinear"), id="DETR of 2021"),
        pytest.param(
            {"size": {"shortest_edge": 512, "longest_edge": 1333}},
            (512, 512, 512, "stretch", "bilinear"),
            id="YOLOS now",
        ),
        pytest.param({"do_resize": False}, (64, 64, 64, "stretch", "bilinear"), id="the model's own size"),
        pytest.param(
            {"do_resize": False, "do_center_crop": True, "crop_size": 48},
            (48, 48, 64, "crop", "bilinear"),
            id="crop only",
        ),
    ],
)
def test_sizes_in_all_spellings_are_understood(config: dict[str, Any], expected: tuple[Any, ...]) -> None:
    image = parse_pixel_input({**HALF, **config}, default_size=64).image
    assert (image.height, image.width, image.resize, image.fit, image.interpolation) == expected


def test_scaling_and_normalisation_become_one_centre_and_one_factor_a_channel() -> None:
    found = parse_pixel_input({"size": 8, "image_mean": CLIP_MEAN, "image_std": [0.25, 0.5, 1.0]})
    assert found.centre == pytest.approx([255 * mean for mean in CLIP_MEAN])
    assert found.scale == pytest.approx((1 / 255 / 0.25, 1 / 255 / 0.5, 1 / 255))


def test_rescaling_and_normalisation_can_each_be_off() -> None:
    raw = parse_pixel_input({"size": 8, "do_rescale": False, "do_normalize": False})
    assert (raw.scale, raw.centre) == ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    factor = parse_pixel_input({**HALF, "size": 8, "rescale_factor": 0.5})
    assert factor.scale == (1.0, 1.0, 1.0)


def test_one_number_serves_every_channel_and_grey_images_have_one_channel() -> None:
    config = {"size": 8, "image_mean": 0.5, "image_std": [0.25]}
    assert parse_pixel_input(config).std == (0.25, 0.25, 0.25)
    grey = parse_pixel_input(config, channels=1)
    assert (grey.image.channels, grey.mean) == (1, (0.5,))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": {"max_height": 8}, **HALF}, "not understood"),
        ({**HALF}, "no `size`"),
        ({"size": 8}, "no `image_mean`"),
        ({"size": 8, "image_mean": [0.5, 0.5], "image_std": [0.5, 0.5]}, "2 numbers"),
        ({"size": 8, "resample": 1, **HALF}, r"`resample` 1 is not known. Change it to 3"),
        ({"size": "large", **HALF}, "nothing that can be understood"),
    ],
)
def test_what_cannot_be_served_is_named_with_its_file(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as failure:
        parse_pixel_input(config, where="m/preprocessor_config.json")
    assert str(failure.value).startswith("m/preprocessor_config.json: ")


def test_four_channels_are_refused() -> None:
    with pytest.raises(ModelError, match="4 channels"):
        parse_pixel_input({"size": 8, **HALF}, channels=4)


@pytest.mark.parametrize("nested", [False, True])
def test_the_file_of_either_name_is_found(tmp_path: Path, *, nested: bool) -> None:
    config = {"size": 16, **HALF}
    name, content = ("processor_config.json", {"image_processor": config}) if nested else (FIRST, config)
    (tmp_path / name).write_text(json.dumps(content))
    assert read_pixel_input(tmp_path).image.height == 16


def test_a_missing_or_damaged_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=FIRST):
        read_pixel_input(tmp_path)
    (tmp_path / FIRST).write_text("[1]")
    with pytest.raises(ModelError, match="holds a list, not an object"):
        read_pixel_input(tmp_path)
    (tmp_path / FIRST).write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        read_pixel_input(tmp_path)
