"""ONNX files of others: what is brought to the card's contract, and what is refused with which words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline.errors import ModelError
from pipeline.factory.build import build
from pipeline.factory.family import Hints
from pipeline.factory.sources.source import resolve_source
from pipeline.models.store import ServedModel
from pipeline.runtime.onnx import open_session
from pipeline.settings import ModelSettings, RuntimeSettings, Settings

CPU = RuntimeSettings(provider="cpu")
RNG = np.random.default_rng(7)
WEIGHTS = RNG.normal(size=(3, 5)).astype(np.float32)
SCALING = Hints(mean=(0.5,), std=(0.25,))


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int = 17, **constants: Any
) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    domains = {node.domain for node in nodes} - {""}
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def classifier(path: Path, *, shape: tuple[int | str, ...] = ("N", 3, 4, 4), softmax: bool = False) -> Path:
    """The mean of each channel times WEIGHTS; under names of its own."""
    channels_last = shape[3] == 3
    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2] if channels_last else [2, 3], keepdims=0)]
    nodes.append(helper.make_node("MatMul", ["mean", "weights"], ["scores"]))
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["output"], axis=-1))
    output = "output" if softmax else "scores"
    return save(path, nodes, [value("image", list(shape))], [value(output, [shape[0], 5])], weights=WEIGHTS)


def encoder(
    path: Path,
    *,
    output: str = "sentence_embedding",
    types: bool = True,
    kind: int = TensorProto.INT64,
    rank: int = 2,
    length: int = -1,
) -> Path:
    """The sum of the tokens' vectors under the mask; ``length`` is one that is fixed inside."""
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["found"])]
    nodes += [helper.make_node("Reshape", ["found", "inside"], ["vectors"])]
    nodes += [helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Unsqueeze", ["mask", "last"], ["column"])]
    nodes += [helper.make_node("Mul", ["vectors", "column"], ["kept"])]
    inputs = ["input_ids", "attention_mask"]
    if types:
        inputs.append("token_type_ids")
        nodes += [helper.make_node("Gather", ["types", "token_type_ids"], ["typed"])]
        nodes += [helper.make_node("Add", ["kept", "typed"], ["both"])]
    last = "both" if types else "kept"
    if rank == 2:
        nodes.append(helper.make_node("ReduceSum", [last, "middle"], [output], keepdims=0))
    else:
        nodes.append(helper.make_node("Identity", [last], [output]))
    free: list[list[int | str]] = [["N", 3], ["N", "S", 3]]
    return save(
        path, nodes, [value(name, ["N", "S"], kind) for name in inputs], [value(output, free[rank - 2])],
        table=RNG.normal(size=(8, 3)).astype(np.float32), types=np.array([[0, 0, 0], [9, 9, 9]], np.float32),
        last=np.array([2]), middle=np.array([1]), inside=np.array([0, length, 3]),
    )  # fmt: skip


def tokenizer(folder: Path) -> Path:
    words = {"[UNK]": 0, "the": 1, "first": 2, "of": 3, "three": 4, "texts": 5, "another": 6, "one": 7}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    file = tmp_path / "names.txt"
    file.write_text("a\nb\nc\nd\ne\n")
    return file


Build = Callable[..., ServedModel]


@pytest.fixture
def make(tmp_path: Path) -> Build:
    """Builds a file with hints into a store of this test's own."""
    settings = Settings(models=ModelSettings(store=str(tmp_path / "store")))

    def make(path: Path, hints: Hints = Hints(), **options: Any) -> ServedModel:  # noqa: B008
        return build(resolve_source(str(path), hints=hints, **options), settings, name="net")

    return make


def refusal(make: Build, path: Path, hints: Hints = Hints(), **options: Any) -> str:  # noqa: B008
    with pytest.raises(ModelError) as caught:
        make(path, hints, **options)
    return str(caught.value)


def run(model: ServedModel, **feeds: Any) -> Any:
    (output,) = open_session(model.path("fp32"), CPU).run(feeds).values()
    return output


@pytest.mark.parametrize("shape", [("N", 3, 4, 4), ("N", 4, 4, 3), (1, 3, 4, 4)])
def test_a_classifier_of_floats_takes_bytes_and_scales_them_inside(
    make: Build, tmp_path: Path, labels: Path, shape: tuple[int | str, ...]
) -> None:
    hints = Hints(labels=labels, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    model = make(classifier(tmp_path / "a.onnx", shape=shape), hints)
    pixels = RNG.integers(0, 256, (3, 4, 4, 3), np.uint8)
    scaled = (pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.125]
    assert np.allclose(run(model, pixels=pixels), scaled.mean((1, 2)) @ WEIGHTS, atol=1e-4)
    assert (model.folder / "labels.txt").read_text().split() == ["a", "b", "c", "d", "e"]
    image = model.card.image
    assert image is not None
    assert (image.height, image.width, image.channels, image.labels) == (4, 4, 3, "labels.txt")


def test_a_softmax_at_the_end_is_left_out(make: Build, tmp_path: Path, labels: Path) -> None:
    model = make(classifier(tmp_path / "a.onnx", softmax=True), Hints(labels=labels, mean=(0.0,), std=(1.0,)))
    pixels = RNG.integers(0, 256, (2, 4, 4, 3), np.uint8)
    assert np.allclose(run(model, pixels=pixels), (pixels / 255).mean((1, 2)) @ WEIGHTS, atol=1e-4)


def test_a_graph_of_our_own_contract_is_taken_as_it_is(make: Build, tmp_path: Path, labels: Path) -> None:
    nodes = [helper.make_node("Cast", ["pixels"], ["f"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("ReduceMean", ["f"], ["mean"], axes=[1, 2], keepdims=0)]
    nodes += [helper.make_node("MatMul", ["mean", "weights"], ["logits"])]
    graph = save(
        tmp_path / "own.onnx", nodes, [value("pixels", ["N", 4, 4, 3], TensorProto.UINT8)], [value("logits", ["N", 5])],
        weights=WEIGHTS,
    )  # fmt: skip
    model = make(graph, Hints(labels=labels))
    pixels = RNG.integers(0, 256, (2, 4, 4, 3), np.uint8)
    assert np.allclose(run(model, pixels=pixels), pixels.mean((1, 2)) @ WEIGHTS, rtol=1e-4)
    assert "a graph that scales pixels itself has no use for --mean and --std" in refusal(make, graph, SCALING)


def test_a_processor_file_beside_the_graph_says_how_pixels_are_scaled(
    make: Build, tmp_path: Path, labels: Path
) -> None:
    said = {"size": 4, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    model = make(classifier(tmp_path / "a.onnx"), Hints(labels=labels))
    pixels = RNG.integers(0, 256, (2, 4, 4, 3), np.uint8)
    assert np.allclose(run(model, pixels=pixels), (pixels / 127.5 - 1).mean((1, 2)) @ WEIGHTS, atol=1e-4)
    assert model.card.image is not None
    assert model.card.image.interpolation == "bicubic"


def test_what_only_the_user_knows_of_a_classifier_is_asked_for(make: Build, tmp_path: Path, labels: Path) -> None:
    graph = classifier(tmp_path / "a.onnx")
    assert "Give --mean and --std" in refusal(make, graph, Hints(labels=labels))
    assert "one number or 3 numbers each" in refusal(make, graph, Hints(labels=labels, mean=(0, 0), std=(1, 1)))
    assert (make(graph, SCALING).folder / "labels.txt").read_text().splitlines()[4] == "class 4"
    labels.write_text("a\nb\n")
    assert "has 2 labels, and the network has 5 classes" in refusal(
        make, graph, Hints(labels=labels, mean=(0,), std=(1,))
    )
    assert "of 4x4 alone" in refusal(make, graph, Hints(size=(8, 8), mean=(0,), std=(1,)))
    free = classifier(tmp_path / "free.onnx", shape=("N", 3, "H", "W"))
    assert "any size. Say which: --size" in refusal(make, free, SCALING)


def test_labels_are_taken_from_the_config_beside_the_graph(make: Build, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {str(i): f"class {i}" for i in range(5)}}))
    model = make(classifier(tmp_path / "a.onnx"), SCALING)
    assert (model.folder / "labels.txt").read_text().splitlines()[4] == "class 4"


def test_a_label_with_a_line_break_stays_one_line(make: Build, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {str(i): f"class\n{i}" for i in range(5)}}))
    model = make(classifier(tmp_path / "a.onnx"), SCALING)
    assert (model.folder / "labels.txt").read_text().splitlines() == [f"class {i}" for i in range(5)]


def test_a_damaged_config_beside_the_graph_is_refused(make: Build, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"id2label": ')
    assert "config.json: cannot be read" in refusal(make, classifier(tmp_path / "a.onnx"), SCALING)


def test_what_the_user_says_and_the_graph_cannot_use_is_refused(make: Build, tmp_path: Path, labels: Path) -> None:
    texts = encoder(tmp_path / "e.onnx")
    said = refusal(make, texts, Hints(tokenizer=tokenizer(tmp_path), labels=labels))
    assert "an ONNX file for embeddings has no use for --labels" in said
    said = refusal(make, classifier(tmp_path / "a.onnx"), Hints(tokenizer=labels, mean=(0.5,), std=(0.25,)))
    assert "an ONNX file for image-classification has no use for --tokenizer" in said


def test_rows_that_change_each_other_are_refused(make: Build, tmp_path: Path, labels: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0)]
    nodes += [
        helper.make_node("ReduceMax", ["mean"], ["most"], keepdims=1),
        helper.make_node("Div", ["mean", "most"], ["share"]),
    ]
    nodes += [helper.make_node("MatMul", ["share", "weights"], ["scores"])]
    graph = save(
        tmp_path / "a.onnx", nodes, [value("image", ["N", 3, 4, 4])], [value("scores", ["N", 5])], weights=WEIGHTS
    )
    assert "cannot be served in batches" in refusal(make, graph, Hints(labels=labels, mean=(0.5,), std=(0.1,)))


def test_a_batch_that_is_fixed_inside_is_refused(make: Build, tmp_path: Path, labels: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "w"], ["scores"]),
    ]
    graph = save(
        tmp_path / "a.onnx", nodes, [value("image", [1, 3, 4, 4])], [value("scores", [1, 5])],
        flat=np.array([1, 48]), w=np.ones((48, 5), np.float32),
    )  # fmt: skip
    assert "Export it with dynamic axes" in refusal(make, graph, Hints(labels=labels, mean=(0.5,), std=(0.1,)))


def test_a_length_that_is_fixed_inside_is_refused(make: Build, tmp_path: Path) -> None:
    tokenizer(tmp_path)
    assert "it does not run with inputs [3, 24] " in refusal(make, encoder(tmp_path / "e.onnx", length=16))


@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_an_encoder_of_texts_is_given_zeros_for_types_and_unit_length(
    make: Build, tmp_path: Path, types: bool, kind: int
) -> None:
    tokenizer(tmp_path)
    model = make(encoder(tmp_path / "e.onnx", types=types, kind=kind))
    assert (model.card.task, model.card.encoder and model.card.encoder.dimensions) == ("embeddings", 3)
    graph = onnx.load(model.path("fp32")).graph
    assert [item.name for item in graph.input] == ["input_ids", "attention_mask"]
    table = next(numpy_helper.to_array(item) for item in graph.initializer if item.name == "table")
    found = run(model, input_ids=np.array([[2, 5, 0]]), attention_mask=np.array([[1, 1, 0]]))
    assert np.allclose(found, (table[2] + table[5]) / np.linalg.norm(table[2] + table[5]), atol=1e-5)


def test_a_classifier_of_texts_has_its_labels_and_its_tokenizer(make: Build, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    graph = encoder(tmp_path / "e.onnx", output="logits")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "x", "1": "y", "2": "z"}, "pad_token_id": 1}))
    assert "Give the model's tokenizer.json with --tokenizer" in refusal(make, graph)
    model = make(graph, Hints(tokenizer=tokenizer(elsewhere)))
    assert model.card.task == "text-classification"
    assert model.card.encoder is not None
    assert (model.card.encoder.pad_token_id, model.card.encoder.max_length) == (1, 512)
    assert set(model.card.files) == {"labels.txt", "tokenizer.json"}


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_the_tokenizer_of_a_larger_model_is_refused(make: Build, tmp_path: Path, kind: int) -> None:
    made = Tokenizer.from_file(str(tokenizer(tmp_path)))
    made.add_tokens(["beyond"])
    made.save(str(tmp_path / "tokenizer.json"))
    said = refusal(make, encoder(tmp_path / "e.onnx", kind=kind))
    assert "its tokenizer has a token 8, and the model knows 8" in said


def test_inputs_and_outputs_that_are_not_the_contracts_are_named(make: Build, tmp_path: Path, labels: Path) -> None:
    tokenizer(tmp_path)
    whole = encoder(tmp_path / "e.onnx", output="last_hidden_state", rank=3)
    assert "do not tell what it is for. Say it: --task" in refusal(make, whole)
    said = refusal(make, whole, task="embeddings")
    assert "this gives last_hidden_state (None, None, 3)" in said
    assert "pooling included" in said
    two = save(
        tmp_path / "two.onnx", [helper.make_node("Add", ["x", "y"], ["z"])],
        [value("x", ["N", 5]), value("y", ["N", 5])], [value("z", ["N", 5])],
    )  # fmt: skip
    assert "has one input, this has x, y" in refusal(make, two, task="image-classification")
    assert "attention_mask and input_ids is missing among x, y" in refusal(make, two, task="embeddings")
    assert "does image-classification, text-classification, embeddings, not object-detection" in refusal(
        make, two, task="object-detection"
    )


def test_damage_is_met_with_a_clear_error(make: Build, tmp_path: Path) -> None:
    graph = classifier(tmp_path / "a.onnx")
    whole = graph.read_bytes()
    graph.write_bytes(whole[: len(whole) // 2])
    assert "not an ONNX file, or cut off" in refusal(make, graph)
    graph.write_bytes(b"")
    assert "there is no graph in it" in refusal(make, graph)
    broken = save(
        tmp_path / "b.onnx", [helper.make_node("Relu", ["nowhere"], ["y"])], [value("x", ["N"])], [value("y", ["N"])]
    )
    assert "damaged, or against the ONNX standard" in refusal(make, broken)


def test_operators_that_onnx_runtime_lacks_are_named(make: Build, tmp_path: Path) -> None:
    node = helper.make_node("Magic", ["x"], ["y"], domain="org.acme")
    graph = save(tmp_path / "a.onnx", [node], [value("x", ["N"])], [value("y", ["N"])])
    assert "its operators Magic are of org.acme, which ONNX Runtime does not have" in refusal(make, graph)


def test_a_graph_that_is_quantized_already_is_refused(make: Build, tmp_path: Path) -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    graph = save(tmp_path / "a.onnx", [node], [value("x", ["N"])], [value("y", ["N"], TensorProto.UINT8)])
    assert "it is quantized already (DynamicQuantizeLinear)" in refusal(make, graph)


def test_a_graph_of_halves_is_refused(make: Build, tmp_path: Path) -> None:
    graph = onnx.load(classifier(tmp_path / "a.onnx"))
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHTS.astype(np.float16), "weights"))
    onnx.save(graph, tmp_path / "a.onnx")
    assert "its weights are halves (float16)" in refusal(make, tmp_path / "a.onnx", SCALING)


def test_weights_beside_the_graph_are_read_but_never_outside_its_folder(
    make: Build, tmp_path: Path, labels: Path
) -> None:
    folder, hints = tmp_path / "export", Hints(labels=labels, mean=(0.0,), std=(1.0,))
    folder.mkdir()
    graph = folder / "a.onnx"
    model = onnx.load(classifier(tmp_path / "whole.onnx"))
    onnx.save(model, graph, save_as_external_data=True, location="a.onnx.data", size_threshold=0)
    built = make(graph, hints)
    assert {path.name for path in built.folder.iterdir()} == {"fp32.onnx", "labels.txt", "model.toml"}

    (folder / "a.onnx.data").rename(tmp_path / "secret")
    assert "'a.onnx.data', which is not beside it" in refusal(make, graph, hints)
    (folder / "a.onnx.data").symlink_to(tmp_path / "secret")
    assert "outside the folder. It is not read" in refusal(make, graph, hints)
    for place in ("../secret", str(tmp_path / "secret")):
        sly = onnx.load(graph, load_external_data=False)
        for tensor in sly.graph.initializer:
            tensor.external_data[0].value = place
        (folder / "sly.onnx").write_bytes(sly.SerializeToString())
        assert "outside the folder. It is not read" in refusal(make, folder / "sly.onnx", hints)


@pytest.mark.parametrize(
    ("number", "said"), [(np.nan, "1 NaN and 0 infinite numbers"), (-np.inf, "0 NaN and 1 infinite numbers")]
)
def test_weights_that_are_no_numbers_are_named_and_counted(
    make: Build, tmp_path: Path, number: float, said: str
) -> None:
    model = onnx.load(classifier(tmp_path / "a.onnx"))
    spoilt = WEIGHTS.copy()
    spoilt[1, 2] = number
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(spoilt, "weights"))
    onnx.save(model, tmp_path / "a.onnx")
    found = refusal(make, tmp_path / "a.onnx", SCALING)
    assert f"a.onnx: weights holds {said} among its 15" in found


def test_an_infinity_that_nothing_is_multiplied_by_is_a_bound_or_a_mask(make: Build, tmp_path: Path) -> None:
    nodes = [helper.make_node("Clip", ["image", "low", "high"], ["clipped"])]
    nodes += [helper.make_node("ReduceMean", ["clipped"], ["mean"], axes=[2, 3], keepdims=0)]
    nodes += [helper.make_node("MatMul", ["mean", "weights"], ["scores"])]
    graph = save(
        tmp_path / "a.onnx", nodes, [value("image", ["N", 3, 4, 4])], [value("scores", ["N", 5])],
        low=np.array(-np.inf, np.float32), high=np.array(np.inf, np.float32), weights=WEIGHTS,
    )  # fmt: skip
    assert make(graph, SCALING).card.task == "image-classification"


def test_a_graph_whose_scores_are_no_numbers_is_refused(make: Build, tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0)]
    nodes += [helper.make_node("MatMul", ["mean", "weights"], ["sum"]), helper.make_node("Log", ["zero"], ["never"])]
    nodes += [helper.make_node("Add", ["sum", "never"], ["scores"])]
    graph = save(
        tmp_path / "a.onnx", nodes, [value("image", ["N", 3, 4, 4])], [value("scores", ["N", 5])],
        zero=np.array(-1, np.float32), weights=WEIGHTS,
    )  # fmt: skip
    assert "15 of its 15 logits for random input are not finite" in refusal(make, graph, SCALING)


@pytest.mark.parametrize("padding", [8, -1])
def test_a_padding_token_that_the_graph_has_no_row_for_is_refused(make: Build, tmp_path: Path, padding: int) -> None:
    tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": padding}))
    said = refusal(make, encoder(tmp_path / "e.onnx"))
    assert f"config.json: pad_token_id is {padding}, and the model knows the tokens 0 to 7" in said


def test_a_graph_that_does_not_load_is_told_in_words_and_then_in_onnx_runtimes_own(make: Build, tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0)]
    nodes += [helper.make_node("MatMul", ["mean", "weights"], ["scores"])]
    graph = save(
        tmp_path / "a.onnx", nodes, [value("image", ["N", 3, 4, 4])], [value("scores", ["N", 5])],
        weights=np.ones((4, 5), np.float32),
    )  # fmt: skip
    said = refusal(make, graph, SCALING)
    assert said.startswith(f"{graph}: its graph does not load: ")
    assert ". ONNX Runtime says: [ONNXRuntimeError] : 1 : FAIL : " in said
    assert "Incompatible dimensions" in said
    assert "@staging" not in said


def test_a_graph_that_does_not_run_is_told_in_words_and_then_in_onnx_runtimes_own(make: Build, tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0)]
    nodes += [helper.make_node("Gather", ["mean", "places"], ["scores"], axis=1)]
    graph = save(
        tmp_path / "a.onnx", nodes, [value("image", ["N", 3, 4, 4])], [value("scores", ["N", 3])],
        places=np.array([0, 1, 9]),
    )  # fmt: skip
    said = refusal(make, graph, SCALING)
    assert said.startswith(f"{graph}: it does not run with inputs [3, 4, 4, 3] and with one row of them. ")
    assert ". ONNX Runtime says: [ONNXRuntimeError] : 2 : INVALID_ARGUMENT : " in said
