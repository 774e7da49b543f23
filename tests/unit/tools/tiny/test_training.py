"""Training each tiny model for a step or two leaves a folder that the factory knows the family of."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file

from pipeline.factory.families import find_family
from pipeline.factory.sources.source import resolve_source
from tools.tiny import clip, finder, intent, reader
from tools.tiny.made import TinyModel

SHORT = {"steps": 2, "rows": 4, "warmup": 1}
MODELS = [
    (finder, "FINDER_FIT", finder.FINDER, "detr"),
    (clip, "CLIP_FIT", clip.CLIP, "clip"),
    (reader, "READER_FIT", reader.READER, "llava"),
    (intent, "INTENTS_FIT", intent.INTENT, "bert"),
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("module", "recipe", "tiny", "family"), MODELS, ids=[tiny.name for _, _, tiny, _ in MODELS])
def test_a_trained_folder_is_of_a_family_of_the_factory(
    module: object, recipe: str, tiny: TinyModel, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(module, recipe, monkeypatch)
    tiny.train(tmp_path, lambda _: None)
    assert find_family(resolve_source(str(tmp_path))).name == family
    weights = sum(tensor.numel() for tensor in tensors(tmp_path).values())
    assert 400_000 < weights < 1_500_000


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def shorten(module: object, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, recipe, msgspec.structs.replace(getattr(module, recipe), **SHORT))


def test_equal_seeds_train_equal_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(finder, "FINDER_FIT", monkeypatch)
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
        finder.FINDER.train(folder, lambda _: None)
    one, other = map(tensors, folders)
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_the_norms_of_the_detector_are_what_transformers_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(finder, "FINDER_FIT", monkeypatch)
    finder.FINDER.train(tmp_path, lambda _: None)
    means = [weight for name, weight in tensors(tmp_path).items() if name.endswith("running_mean")]
    assert means
    assert all(bool(mean.any()) for mean in means)
