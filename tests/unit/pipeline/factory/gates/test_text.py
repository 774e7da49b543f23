"""Decoders of built models against themselves: which samples count, and what company does to a result."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from msgspec.structs import replace
from onnx import helper

from pipeline.errors import ModelError
from pipeline.factory.families.gpt2 import FAMILY
from pipeline.factory.gates.figures import known_figures
from pipeline.factory.gates.measure import Bench, figures_of
from pipeline.factory.gates.text import open_decoder
from pipeline.factory.samples import Sample
from pipeline.models.store import ServedModel
from pipeline.runtime.session import DecoderSession
from pipeline.settings import Settings
from tests.unit.pipeline.factory.families import test_gpt2, test_llava
from tests.unit.pipeline.factory.families.decoders import bench_of, save_model, source_of
from tests.unit.pipeline.factory.tiny_models import picture, settings_for

INVARIANT = "max_difference_in_other_batches"


def figures(model: ServedModel, samples: list[Sample]) -> dict[str, float]:
    settings = settings_for(model.folder)
    return figures_of(model, "fp32", Bench.of(model, samples, settings))


@pytest.fixture
def gpt2(tmp_path: Path) -> ServedModel:
    source, bench = source_of(save_model(test_gpt2.tiny(), tmp_path)), bench_of(tmp_path)
    return ServedModel(card=FAMILY.build(source, bench), folder=bench.folder)


@pytest.fixture
def llava(tmp_path: Path) -> ServedModel:
    return ServedModel(card=test_llava.build(tmp_path, test_llava.tiny()), folder=tmp_path / "built")


QUESTIONS = [Sample(image=picture(number), text="what?", answer="a cat") for number in range(3)]


def test_a_decoder_with_a_single_sample_is_measured_in_company_too(gpt2: ServedModel) -> None:
    measured = figures(gpt2, [Sample(text="all alone")])
    assert measured[INVARIANT] == 0
    assert set(measured) == set(known_figures("text-generation"))


def test_the_first_16_samples_count_and_the_figures_say_so(gpt2: ServedModel) -> None:
    assert figures(gpt2, [Sample(text=f"number {number}") for number in range(20)])["samples"] == 16


@pytest.mark.parametrize("name", ["gpt2", "llava"])
def test_fp32_reads_the_samples_once_however_many_drafts_are_compared_with_it(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: ServedModel = request.getfixturevalue(name)
    full = made.card.variants["fp32"]
    model = replace(made, card=replace(made.card, variants={"fp32": full, "int8": full}))
    opened, settings = list[str](), settings_for(model.folder)

    def counted(model: ServedModel, variant: str, settings: Settings, slots: int) -> DecoderSession:
        opened.append(variant)
        return open_decoder(model, variant, settings, slots)

    monkeypatch.setattr("pipeline.factory.gates.text.open_decoder", counted)
    bench = Bench.of(model, QUESTIONS, settings)
    measured = [figures_of(model, "int8", bench) for _draft in range(3)]
    assert opened == ["fp32", "int8", "int8", "int8"]
    assert [(one["mean_kl"], one["top1_agreement"], one["perplexity_ratio"]) for one in measured] == [(0, 1, 1)] * 3


def test_a_vision_graph_that_depends_on_its_batch_is_found_out(llava: ServedModel) -> None:
    measured = figures(llava, QUESTIONS)
    assert measured[INVARIANT] == 0
    assert set(measured) == set(known_figures("image-to-text"))
    path = llava.folder / llava.card.variants["fp32"].parts["vision"].file
    graph = onnx.load(path)
    (last,) = [node for node in graph.graph.node if "image_embeds" in node.output]
    last.output[list(last.output).index("image_embeds")] = "alone"
    graph.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["alone"], ["company"], keepdims=1),
            helper.make_node("Sub", ["alone", "company"], ["image_embeds"]),
        ]
    )
    onnx.save(graph, path)
    assert figures(llava, QUESTIONS)[INVARIANT] > 0


def test_an_image_to_text_sample_without_an_image_is_named(llava: ServedModel) -> None:
    with pytest.raises(ModelError, match="sample 4: it has no image"):
        figures(llava, [*QUESTIONS, Sample(text="what?")])
