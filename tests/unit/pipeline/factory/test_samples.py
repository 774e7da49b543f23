"""Samples from folders, files and records, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.gates.decoders import gate_texts
from pipeline.factory.samples import Sample, check_kinds, read_samples, request_of, sample_of
from pipeline.factory.samples_default import calibration_sentences, default_samples
from pipeline.models.store import read_model
from pipeline.runtime.huggingface import open_tokenizer
from pipeline.settings import Settings
from schemas.messages import ChatMessage, ImageInput, InferenceRequest, Source, TextInput

SOURCE = Source(topic="prompts", partition=0, offset=7)


def test_a_folder_of_images_is_read_and_its_sub_folders_are_labels(tmp_path: Path) -> None:
    for name in ("a.png", "cat/b.JPG", "dog/c.webp", "dog/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    assert read_samples(tmp_path) == [
        Sample(image=b"a.png", where=f"{tmp_path}/a.png"),
        Sample(image=b"cat/b.JPG", answer="cat", where=f"{tmp_path}/cat/b.JPG"),
        Sample(image=b"dog/c.webp", answer="dog", where=f"{tmp_path}/dog/c.webp"),
    ]


def test_a_file_has_a_sample_on_each_line(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"png")
    file = tmp_path / "samples.jsonl"
    file.write_text(
        '{"text": "good", "label": "positive"}\n\n'
        '{"prompt": "2 + 2 =", "answer": " 4"}\n'
        '{"messages": [{"role": "user", "content": "hello"}]}\n'
        '{"image": "x.png", "prompt": "What is it?", "answer": "a cat"}\n'
    )
    assert read_samples(file) == [
        Sample(text="good", answer="positive", where=f"{file}, line 1"),
        Sample(text="2 + 2 =", answer=" 4", where=f"{file}, line 3"),
        Sample(messages=(ChatMessage(role="user", content="hello"),), where=f"{file}, line 4"),
        Sample(text="What is it?", image=b"png", answer="a cat", where=f"{file}, line 5"),
    ]


def test_breaks_of_unicode_inside_a_string_cut_no_line_and_a_bom_and_crlf_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_bytes('\ufeff{"text": "one\u2028two\u0085"}\r\n{"text": "three"}\r\n'.encode())
    assert [sample.text for sample in read_samples(file)] == ["one\u2028two\u0085", "three"]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('{"txt": "a"}', "contains unknown field `txt`"),
        ("not json", "malformed"),
        ('{"label": "a"}', "it needs text, prompt, messages or image"),
        ('{"text": "a", "prompt": "b"}', "give one of text, prompt and messages"),
        ('{"image": "no.png"}', r"no\.png cannot be read"),
    ],
)
def test_what_is_wrong_is_said_with_the_file_and_the_line(tmp_path: Path, line: str, wrong: str) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ModelError, match=rf"samples\.jsonl, line 2: .*{wrong}"):
        read_samples(file)


def test_a_folder_or_file_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no image"):
        read_samples(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ModelError, match="there is no line"):
        read_samples(tmp_path / "empty.jsonl")
    with pytest.raises(ModelError, match="the samples cannot be read"):
        read_samples(tmp_path / "no.jsonl")


def test_records_become_samples_and_samples_requests() -> None:
    text = InferenceRequest(id="1", source=SOURCE, task="embeddings", input=TextInput(prompt="hello"))
    assert sample_of(text) == Sample(text="hello")
    image = InferenceRequest(id="2", source=SOURCE, task="image-classification", input=ImageInput(data=b"png"))
    assert sample_of(image) == Sample(image=b"png")
    assert request_of(sample_of(image), "image-classification").input == ImageInput(data=b"png")
    elsewhere = InferenceRequest(id="3", source=SOURCE, task="image-classification", input=ImageInput(dataref="f:/x"))
    with pytest.raises(ModelError, match="record 3: its image is kept elsewhere"):
        sample_of(elsewhere)


def test_a_sample_of_a_kind_that_a_model_does_not_read_is_told_by_its_file() -> None:
    image, text = Sample(image=b"png", where="photos/cat/1.png"), Sample(text="hello", where="a.jsonl, line 2")
    for name in ("intents-tiny", "dialogues-tiny"):
        model = read_model(name, Settings())
        check_kinds([text], model)
        with pytest.raises(ModelError, match=rf"^photos/cat/1\.png: this is an image, and {model.spec} reads texts\."):
            check_kinds([text, image], model)
    digits = read_model("digits-tiny", Settings())
    check_kinds([image], digits)
    with pytest.raises(ModelError, match=rf"^a\.jsonl, line 2: this is a text, and {digits.spec} reads images\."):
        check_kinds([image, text], digits)


def test_no_sentence_for_calibration_is_one_that_models_are_measured_on() -> None:
    measured = " ".join(gate_texts())
    sentences = calibration_sentences()
    assert len(sentences) >= 50
    assert not [text for text in sentences if text in measured]


@pytest.mark.parametrize("length", [8, 32])
def test_our_own_samples_are_cut_to_what_a_model_of_texts_holds(tmp_path: Path, length: int) -> None:
    def samples(most: int) -> list[list[str]]:
        model = read_model("intents-tiny", Settings())
        assert model.card.encoder is not None
        card = replace(model.card, encoder=replace(model.card.encoder, max_length=most))
        return [[str(one.text) for one in side] for side in default_samples(replace(model, card=card), tmp_path, print)]

    codec = open_tokenizer(read_model("intents-tiny", Settings()).folder / "tokenizer.json")
    whole = samples(512)
    assert set(gate_texts()) < set(whole[1])
    for side, full in zip(samples(length), whole, strict=True):
        assert max(len(codec.encode_whole(text)) for text in side) <= length
        assert all(text.startswith(cut) and cut for cut, text in zip(side, full, strict=True))


def test_our_own_samples_leave_a_decoder_room_for_its_answer(tmp_path: Path) -> None:
    model = read_model("dialogues-tiny", Settings())
    assert model.card.text is not None
    short = replace(model, card=replace(model.card, text=replace(model.card.text, max_length=16)))
    codec, begin = open_tokenizer(model.folder / "tokenizer.json"), model.card.text.bos_token_id is not None
    for samples in default_samples(short, tmp_path, print):
        lengths = [begin + len(codec.encode(sample.text or "")) for sample in samples]
        assert max(lengths) <= 15
        assert len(samples) >= 16
