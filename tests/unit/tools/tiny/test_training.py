"""Training each tiny model for a step or two leaves a folder that the factory knows the family of."""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx
import pytest

pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file

from pipeline.factory.build import build
from pipeline.factory.families import find_family
from pipeline.factory.sources.source import resolve_source
from pipeline.models.cardfile import read_card
from pipeline.models.heldout import HELD_OUT_FILE, read_held_out_digits
from pipeline.models.store import SHIPPED
from pipeline.settings import ModelSettings, Settings
from tools.tiny import clip, dialogues, digits, finder, intent, reader
from tools.tiny.digits_net import DIGITS_RECIPE
from tools.tiny.made import TinyModel

SHORT = {"steps": 2, "rows": 4, "warmup": 1}
MODELS = [
    (finder, "FINDER_FIT", finder.FINDER, "detr"),
    (clip, "CLIP_FIT", clip.CLIP, "clip"),
    (reader, "READER_FIT", reader.READER, "llava"),
    (intent, "INTENTS_FIT", intent.INTENT, "bert"),
    (dialogues, "GPT2_RECIPE", dialogues.DIALOGUES, "gpt2"),
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
    assert 400_000 < weights < 2_500_000


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


def test_the_digits_leave_an_onnx_file_that_becomes_what_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = msgspec.structs.replace(DIGITS_RECIPE, epochs=1)
    monkeypatch.setattr(digits, "DIGITS_RECIPE", recipe)
    monkeypatch.setattr(digits, "HELD_OUT_FILE", tmp_path / HELD_OUT_FILE.name)
    folder = tmp_path / "trained"
    folder.mkdir()
    digits.DIGITS.train(folder, lambda _: None)
    settings = Settings(models=ModelSettings(store=str(tmp_path / "store")))
    model = build(resolve_source(str(folder / digits.DIGITS.graph)), settings, name="digits-tiny")
    card = read_card(SHIPPED / "digits-tiny" / "1.0.0")
    assert (model.card.image, model.card.files) == (card.image, card.files)
    assert nodes(model.path("fp32")) == nodes(SHIPPED / "digits-tiny" / "1.0.0" / "fp32.onnx")
    drawn, told = read_held_out_digits(tmp_path / HELD_OUT_FILE.name), read_held_out_digits()
    assert (drawn.pixels == told.pixels).all()
    assert (drawn.labels == told.labels).all()


def nodes(graph: Path) -> list[str]:
    return [node.op_type for node in onnx.load(graph).graph.node]
