"""`millrace models optimize`, as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from console.models.gate import gate_of
from console.models.samples import find_evaluation, find_samples, load_samples
from console.output import Output
from pipeline.errors import ModelError, TransportError
from pipeline.factory.gates.gate import Gate
from pipeline.factory.graph import GraphWriter
from pipeline.models.store import read_model
from pipeline.settings import load_settings
from tests.unit.console.test_models import run, run_json
from tests.unit.pipeline.factory.families.decoders import VOCABULARY, save_model

SIDE = 8
STREAMS = Output(as_json=False)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_MODELS__STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MILLRACE_RUNTIME__PROVIDER", "cpu")
    monkeypatch.setenv("COLUMNS", "300")
    # Each measurement of memory takes a process of its own.
    monkeypatch.setattr("pipeline.factory.gates.measure.memory_megabytes", lambda *_: None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Noise, the brighter half in one folder and the darker half in another."""
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 128)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(low, low + 128, (SIDE, SIDE), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def classifier(tmp_path: Path) -> tuple[str, ...]:
    """Arguments to build what tells bright from dark: a convolution, whose mean is compared with zero."""
    graph = GraphWriter("bright")
    kernel = graph.constant("kernel", np.full((4, 1, 3, 3), 0.2, np.float32))
    image = graph.input("image", "float32", ["N", 1, SIDE, SIDE])
    mean = graph.node("GlobalAveragePool", [graph.node("Conv", [image, kernel])])
    signs = graph.constant("signs", np.array([[-4.0, 4.0]] * 4, np.float32))
    graph.node("MatMul", [graph.node("Flatten", [mean], attributes={"axis": 1}), signs], outputs=["scores"])
    graph.output("scores", "float32", ["N", 2])
    onnx.save(graph.model("bright or dark"), tmp_path / "bright.onnx")
    (tmp_path / "names.txt").write_text("dark\nbright\n")
    options = ("--labels", str(tmp_path / "names.txt"), "--mean", "0.5", "--std", "0.5")
    return ("build", str(tmp_path / "bright.onnx"), *options)


def test_a_variant_within_the_gate_is_admitted_and_shown_with_its_figures(
    classifier: tuple[str, ...], photos: Path
) -> None:
    assert run(*classifier)[0] == 0
    status, out, _ = run("optimize", "bright", "--calibration", str(photos), "--gate", "top1_agreement>=0.9")
    assert status == 0
    assert "12 samples: every second one is for calibration" in out
    assert "bright@1: int8: admitted" in out
    assert "bright@1 has fp32, int8" in out
    card = read_model("bright", load_settings()).card
    assert card.variants["int8"].measured["top1_agreement"] == 1.0
    assert card.variants["int8"].measured["accuracy"] == 1.0
    read_model("bright", load_settings()).verify("int8")


def test_a_variant_outside_the_gate_is_left_out_with_its_figures_and_status_1(
    classifier: tuple[str, ...], photos: Path
) -> None:
    run(*classifier)
    samples = ("--calibration", str(photos), "--evaluation", str(photos))
    status, out, error = run("optimize", "bright", *samples, "--gate", "top1_agreement>=1.5")
    assert status == 1
    assert "rejected" in out
    assert "int8 is left out: top1_agreement is 1.0, at least 1.5 is asked" in error
    shown = run_json("show", "bright")
    assert list(shown["variants"]) == ["fp32"]
    assert shown["rejected"]["int8"]["measured"]["top1_agreement"] == 1.0
    assert "int8 rejected" in run("list")[1]


def test_a_model_is_built_and_optimized_at_once(classifier: tuple[str, ...], photos: Path) -> None:
    samples = ("--calibration", str(photos), "--gate", "top1_agreement>=0.9")
    built = run_json(*classifier, "--variant", "int8", "--variant", "fp16", *samples)
    assert list(built["variants"]) == ["fp32", "int8", "fp16"]
    assert run(*classifier, *samples, "--gate", "top1_agreement>=1.5")[0] == 1


def test_what_is_wrong_is_said_before_anything_is_made(classifier: tuple[str, ...], photos: Path) -> None:
    run(*classifier)
    assert "model bright has no version '7'" in run("optimize", "bright@7")[2]
    assert "Invalid value for '--gate'" in run("optimize", "bright", "--gate", "top1=0.9")[2]
    assert "Invalid value for '--gate'" in run("optimize", "bright", "--gate", "top1>=nan")[2]
    assert "Invalid value for '--variant'" in run("optimize", "bright", "--variant", "int4")[2]
    assert "Invalid value for '--calibration': there is no" in run(*classifier, "--calibration", str(photos / "no"))[2]
    assert "version '2'" in run("show", "bright@2")[2]
    unknown = run("optimize", "bright", "--calibration", str(photos), "--gate", "perplexity<=2")[2]
    assert "the gate names perplexity, which is not measured here" in unknown
    assert "Write kafka:TOPIC" in run("optimize", "bright", "--calibration", "kafka:a b")[2]
    assert list(read_model("bright", load_settings()).card.variants) == ["fp32"]


def test_a_pruned_version_is_made_beside_the_other_and_measured(classifier: tuple[str, ...], photos: Path) -> None:
    run(*classifier)
    options = ("--kind", "magnitude", "--amount", "0.5", "--evaluation", str(photos))
    pruned = run_json("prune", "bright", *options)
    assert (pruned["version"], pruned["promoted"]) == ("2", False)
    assert pruned["variants"]["fp32"]["measured"]["sparsity"] == pytest.approx(0.5, abs=0.1)
    said = run("prune", "bright@1", *options, "--version", "half")[1]
    assert "set to zero: no faster" in said
    assert "bright@half is made" in said
    assert "Invalid value for '--amount'" in run("prune", "bright", "--kind", "magnitude", "--amount", "1")[2]
    assert "Missing option '--kind'" in run("prune", "bright", "--amount", "0.5")[2]


def test_a_text_model_is_optimized_on_millraces_own_sentences(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    numbers = {"n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": 1024, "vocab_size": VOCABULARY}
    config = GPT2Config(**numbers, bos_token_id=256, eos_token_id=257)
    save_model(GPT2LMHeadModel(config), tmp_path / "tiny-gpt2")
    assert run("build", str(tmp_path / "tiny-gpt2"))[0] == 0
    status, out, _ = run("optimize", "tiny-gpt2", "--gate", "samples>=16")
    assert status == 0
    assert "Millrace's own photos and sentences" in out
    measured = read_model("tiny-gpt2", load_settings()).card.variants["int8"].measured
    assert measured["max_difference_in_other_batches"] == 0


def test_a_label_that_the_model_does_not_have_is_told_by_its_place(classifier: tuple[str, ...], photos: Path) -> None:
    run(*classifier)
    (photos / "dark").rename(photos / "dusky")
    status, _, error = run("optimize", "bright", "--calibration", str(photos))
    assert status == 1
    assert f"{photos}/dusky/0.png: the model has no label 'dusky'. It has 2: dark, bright" in error


@pytest.mark.parametrize("option", ["--calibration", "--evaluation"])
def test_a_label_is_looked_up_in_both_halves_of_one_set_of_samples(
    classifier: tuple[str, ...], photos: Path, option: str
) -> None:
    run(*classifier)
    (photos / "amber").mkdir()
    first = photos / "amber" / "0.png"  # in the half for calibration
    (photos / "dark" / "0.png").rename(first)
    status, _, error = run("optimize", "bright", option, str(photos))
    assert status == 1
    assert f"{first}: the model has no label 'amber'." in error


def test_labels_of_samples_that_are_for_calibration_alone_may_be_any(
    classifier: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    run(*classifier)
    others = tmp_path / "kitchen"
    shutil.copytree(photos / "dark", others / "dusky")
    options = ("--calibration", str(others), "--evaluation", str(photos), "--gate", "samples>=1")
    assert run("optimize", "bright", *options)[0] == 0


def test_a_text_model_that_holds_little_is_measured_on_what_fits(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    numbers = {"n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": 32, "vocab_size": VOCABULARY}
    config = GPT2Config(**numbers, bos_token_id=256, eos_token_id=257)
    save_model(GPT2LMHeadModel(config), tmp_path / "short-gpt2")
    assert run("build", str(tmp_path / "short-gpt2"), "--variant", "int8", "--gate", "samples>=16")[0] == 0


def test_a_misspelt_figure_is_said_before_samples_are_looked_for(classifier: tuple[str, ...]) -> None:
    run(*classifier)
    error = run("optimize", "bright", "--calibration", "kafka:topic", "--gate", "top1_agrement>=0.9")[2]
    assert "the gate names top1_agrement, which is not measured here. Is top1_agreement meant?" in error


@pytest.mark.parametrize(("milliseconds", "said"), [(2.0, True), (0.5, False)], ids=["slower", "faster"])
def test_an_int8_that_is_no_faster_than_fp32_is_admitted_and_said_to_be_no_faster(
    classifier: tuple[str, ...], photos: Path, monkeypatch: pytest.MonkeyPatch, milliseconds: float, *, said: bool
) -> None:
    times = iter([1.0, milliseconds])  # FP32's, and INT8's

    def timed(*_: object) -> dict[str, float]:
        return dict.fromkeys(("ms_batch_1", "ms_batch_8", "ms_batch_32"), next(times))

    monkeypatch.setattr("pipeline.factory.gates.measure.milliseconds", timed)
    run(*classifier)
    status, out, error = run("optimize", "bright", "--calibration", str(photos), "--gate", "top1_agreement>=0.9")
    assert status == 0
    assert "bright@1 has fp32, int8" in out
    slow = ", ".join(f"0.5 times its speed in batches of {count}" for count in (1, 8, 32))
    assert (f"int8 is no faster than fp32 on this machine: {slow}. It is admitted" in error) == said


def test_bounds_make_a_gate() -> None:
    assert gate_of([]) is None
    assert gate_of([("a", ">=", 0.5), ("b", "<=", 2.0)]) == Gate(at_least={"a": 0.5}, at_most={"b": 2.0})


def test_samples_are_shared_out_where_only_one_side_is_given(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(f"{json.dumps({'text': str(number)})}\n" for number in range(5)))
    model = read_model("dialogues-tiny", load_settings())

    def texts(calibration: list[str], evaluation: list[str]) -> list[list[str | None]]:
        sides = find_samples(model, calibration, evaluation, STREAMS, lambda _: None)
        return [[sample.text for sample in side] for side in sides]

    assert texts([str(file)], []) == texts([], [str(file)]) == [["0", "2", "4"], ["1", "3"]]
    assert texts([str(file)], [str(file)]) == [["0", "1", "2", "3", "4"]] * 2
    assert len(texts([str(file)] * 2, [])[0]) == 5
    assert len(texts([], [])[1]) > 5
    file.write_text('{"text": "alone"}\n')
    with pytest.raises(ModelError, match="one sample is not enough"):
        texts([str(file)], [])


def test_where_own_samples_are_taken_the_options_that_the_command_has_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, output = read_model("dialogues-tiny", load_settings()), Output(as_json=False)
    find_evaluation(model, [], output, lambda _: None)
    assert "give yours with --evaluation\n" in capsys.readouterr().out
    find_samples(model, [], [], output, lambda _: None)
    assert "give yours with --calibration and --evaluation\n" in capsys.readouterr().out


def test_images_for_a_model_of_texts_are_told_as_such(photos: Path) -> None:
    status, _, error = run("optimize", "intents-tiny", "--calibration", str(photos))
    assert status == 1
    assert "bright/0.png: this is an image, and intents-tiny@" in error


def test_samples_are_files_unless_they_are_a_topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    (tmp_path / "one.jsonl").write_text('{"text": "hello"}\n')
    (sample,) = load_samples([str(tmp_path / "one.jsonl")], "text-generation", STREAMS)
    assert sample.text == "hello"
    monkeypatch.setattr("agents.kafka_clients.METADATA_TIMEOUT_S", 0.2)
    with pytest.raises(TransportError, match=r"no Kafka answers at 127\.0\.0\.1:1"):
        load_samples(["kafka:topic"], "text-generation", STREAMS)
