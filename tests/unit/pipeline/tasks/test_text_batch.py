from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from pipeline.errors import ModelError
from pipeline.models.card import EncoderSpec
from pipeline.runtime.fakes import FakeBackend
from pipeline.runtime.onnx import OnnxBackend
from pipeline.settings import RuntimeSettings
from pipeline.tasks.text_batch import TextEncoder, padded_length, text_of
from schemas.errors import PrepareError
from schemas.messages import ChatMessage
from tests.unit.pipeline.helpers import image_request, text_request

WORDS, WIDTH, DIMENSIONS = 50, 48, 24
PAD, CLS, SEP = WORDS, WORDS + 1, WORDS + 2


def tokenizer(folder: Path) -> None:
    vocabulary = {f"w{word}": word for word in range(WORDS)} | {"[PAD]": PAD, "[CLS]": CLS, "[SEP]": SEP, "[": SEP + 1}
    made = Tokenizer(WordLevel(vocabulary | {"]": SEP + 2, "SEP": SEP + 3}, unk_token="w0"))  # noqa: S106
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    special = [("[CLS]", CLS), ("[SEP]", SEP)]
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    made.save(str(folder / "tokenizer.json"))


def encoder_graph(folder: Path) -> Path:
    """Embeddings, one head of masked attention, a normalisation and the mean over the tokens, in float32."""
    noise = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(noise.standard_normal(shape).astype(np.float32) / 4, name)

    def constant(name: str, value: npt.NDArray[Any]) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(value, name)

    weights = [weight("E", SEP + 4, WIDTH), weight("P", WIDTH, DIMENSIONS), weight("g", WIDTH), weight("b", WIDTH)]
    weights += [weight(name, WIDTH, WIDTH) for name in "QKV"]
    weights += [constant("one", np.array(1, np.float32)), constant("low", np.array(-10_000, np.float32))]
    weights += [constant("axis1", np.array([1]))]
    steps = [
        ("Gather", "E input_ids", "x", {}),
        *[("MatMul", f"x {name}", name.lower(), {}) for name in "QKV"],
        ("Transpose", "k", "kt", {"perm": [0, 2, 1]}),
        ("MatMul", "q kt", "near", {}),
        ("Cast", "attention_mask", "m", {"to": onnx.TensorProto.FLOAT}),
        ("Sub", "one m", "hidden", {}),
        ("Mul", "hidden low", "minus", {}),
        ("Unsqueeze", "minus axis1", "bias", {}),
        ("Add", "near bias", "masked", {}),
        ("Softmax", "masked", "shares", {"axis": -1}),
        ("MatMul", "shares v", "seen", {}),
        ("Add", "x seen", "sum", {}),
        ("LayerNormalization", "sum g b", "normal", {"axis": -1}),
        # Not ReduceSum over the tokens: ONNX Runtime's adds up those of one text in another order than those of two.
        ("Unsqueeze", "m axis1", "m3", {}),
        ("MatMul", "m3 normal", "total3", {}),
        ("Squeeze", "total3 axis1", "total", {}),
        ("ReduceSum", "m axis1", "count", {"keepdims": 1}),
        ("Div", "total count", "mean", {}),
        ("MatMul", "mean P", "projected", {}),
        ("LpNormalization", "projected", "embedding", {"axis": -1, "p": 2}),
    ]
    nodes = [helper.make_node(kind, inputs.split(), [output], **options) for kind, inputs, output, options in steps]
    ints = [helper.make_tensor_value_info(name, 7, ["N", "S"]) for name in ("input_ids", "attention_mask")]
    out = [helper.make_tensor_value_info("embedding", 1, ["N", DIMENSIONS])]
    graph = helper.make_graph(nodes, "encoder", ints, out, weights)
    path = folder / "fp32.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture
def real(tmp_path: Path) -> TextEncoder:
    """A small encoder under ONNX Runtime."""
    tokenizer(tmp_path)
    spec = EncoderSpec(tokenizer="tokenizer.json", max_length=200, pad_token_id=PAD)
    backend = OnnxBackend(RuntimeSettings(provider="cpu"))
    encoder = TextEncoder(encoder_graph(tmp_path), tmp_path, spec, backend, "embedding")
    encoder.open()
    return encoder


def texts(count: int) -> list[str]:
    """Texts of 1 to 198 words, every one of another length."""
    choose = random.Random(0)
    return [
        " ".join(f"w{choose.randrange(WORDS)}" for _ in range(length)) for length in choose.sample(range(199), count)
    ]


def test_a_texts_result_is_bit_for_bit_the_same_alone_and_among_31_others(real: TextEncoder) -> None:
    tokens = [real.read(text, "$") for text in texts(32)]
    together = real.run(tokens)
    for mine, row in zip(tokens, together, strict=True):
        alone = real.run([mine])[0]
        assert alone.tobytes() == row.tobytes()
    assert len({row.tobytes() for row in together}) == 32


def test_padding_changes_no_more_than_the_rounding(real: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [real.read(text, "$") for text in texts(8)]
    padded = real.run(tokens)
    monkeypatch.setattr("pipeline.tasks.text_batch.padded_length", lambda count, most: count)
    bare = [real.run([mine])[0] for mine in tokens]
    assert np.abs(np.array(padded) - np.array(bare)).max() < 1e-6


@pytest.mark.parametrize(
    ("tokens", "length"),
    [(1, 16), (16, 16), (17, 32), (33, 48), (97, 128), (129, 192), (257, 384), (512, 512), (513, 640), (641, 768)],
)
def test_a_text_is_padded_to_the_next_of_few_lengths(tokens: int, length: int) -> None:
    assert padded_length(tokens, 10_000) == length


def test_padding_never_exceeds_what_the_model_reads() -> None:
    assert [padded_length(tokens, 77) for tokens in (5, 64, 65, 77)] == [16, 64, 77, 77]
    assert padded_length(514, 514) == 514


class Counting(FakeBackend):
    """Notes the shape of every run."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        super().__init__(fault=self._note)

    def _note(self, inputs: npt.NDArray[Any]) -> bool:
        self.shapes.append(inputs.shape)
        return False


def fake(max_length: int = 600, backend: FakeBackend | None = None) -> TextEncoder:
    spec = EncoderSpec(tokenizer="tokenizer.json", max_length=max_length)
    encoder = TextEncoder(Path("fp32.onnx"), Path(), spec, backend or FakeBackend(), "embedding")
    encoder.open()
    return encoder


def test_texts_of_one_padded_length_share_a_run_and_come_back_in_order() -> None:
    backend = Counting()
    encoder = fake(backend=backend)
    read = [encoder.read(text, "$") for text in ("1", "22" * 20, "3", "4" * 20, "5")]
    rows = encoder.run(read)
    assert backend.shapes == [(3, 16), (1, 32), (1, 48)]
    assert [int(row.argmax()) for row in rows] == [ord(first) % 10 for first in "12345"]


def test_a_run_is_bounded_however_many_texts_come() -> None:
    backend = Counting()
    encoder = fake(backend=backend)
    encoder.run([encoder.read(letter, "$") for letter in "ab" * 600])
    assert backend.shapes == [(1_024, 16), (176, 16)]


def test_a_text_that_is_too_long_is_refused_with_its_length() -> None:
    encoder = fake(max_length=20)
    assert len(encoder.read("a" * 19, "$")) == 20
    with pytest.raises(PrepareError, match="has 21 tokens, and this model reads 20 tokens at most"):
        encoder.read("a" * 20, "$")
    with pytest.raises(PrepareError, match="has 100000 characters"):
        encoder.read("a" * 100_000, "$")


def test_special_tokens_written_in_a_text_are_plain_text(real: TextEncoder) -> None:
    assert real.read("w1 [SEP] w2", "$") == (CLS, 1, SEP + 1, SEP + 3, SEP + 2, 2, SEP)


def test_one_message_is_as_good_as_a_prompt_and_more_are_refused() -> None:
    one = ChatMessage(role="user", content="hello")
    assert text_of(text_request("hello")) == ("hello", "$.prompt")
    assert text_of(text_request(prompt=None, messages=(one,))) == ("hello", "$.messages[0].content")
    with pytest.raises(PrepareError, match="reads one text"):
        text_of(text_request(prompt=None, messages=(one, one)))
    with pytest.raises(PrepareError, match="reads text, and the record holds an image"):
        text_of(image_request())


def test_a_graph_without_the_output_stops_the_start_and_says_what_it_has(tmp_path: Path) -> None:
    spec = EncoderSpec(tokenizer="tokenizer.json", max_length=20)
    tokenizer(tmp_path)
    backend = OnnxBackend(RuntimeSettings(provider="cpu"))
    encoder = TextEncoder(encoder_graph(tmp_path), tmp_path, spec, backend, "logits")
    encoder.open()
    with pytest.raises(ModelError, match=r"no output 'logits', only embedding"):
        encoder.run([encoder.blank()])
