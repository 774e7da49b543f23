from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pipeline.errors import ModelError
from pipeline.models.store import SHIPPED
from pipeline.runtime import huggingface
from pipeline.runtime.huggingface import open_tokenizer, read_tokenizer


def made(**parts: Any) -> Tokenizer:
    """One with a token for each ASCII character, and ``parts`` of it set."""
    characters = {chr(code): code for code in range(128)} | {"[U]": 128}
    tokenizer = Tokenizer(models.BPE(vocab=characters, merges=[], unk_token="[U]"))  # noqa: S106
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def written(folder: Path, tokenizer: Tokenizer) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def table_of(*replacements: str) -> str:
    """SentencePiece's table, with an empty trie."""
    return base64.b64encode((0).to_bytes(4, "little") + "\0".join(replacements).encode()).decode()


DOUBLING = normalizers.Replace("a", "aa")
EXPLODING: dict[str, dict[str, Any]] = {
    "doubling forty times": {"normalizer": normalizers.Sequence([DOUBLING] * 40)},
    "one long replacement": {"normalizer": normalizers.Replace("ж", "x" * 100)},
    "a long replacement between all": {"normalizer": normalizers.Replace(Regex("(?=ж)"), "x" * 100)},
    "in a sequence of sequences": {"normalizer": normalizers.Sequence([normalizers.Sequence([DOUBLING] * 7)])},
    "bytes of bytes": {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()] * 40)},
    "of both": {
        "normalizer": normalizers.Sequence([DOUBLING] * 4),
        "pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()] * 4),
    },
    "what is decoded": {"decoder": decoders.Sequence([decoders.Replace("a", "aa")] * 40)},
}


@pytest.mark.parametrize("parts", EXPLODING.values(), ids=EXPLODING)
def test_a_tokenizer_that_can_make_a_text_explode_is_refused_unused(tmp_path: Path, parts: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json: .* more than 64 times as long"):
        open_tokenizer(written(tmp_path, made(**parts)))


def test_what_sentencepieces_table_replaces_counts_too() -> None:
    step = {"type": "Precompiled", "precompiled_charsmap": table_of("a", "k" * 100, "")}
    assert huggingface._growth_of(step) == 100


def test_a_tokenizer_that_adds_tokens_without_end_is_refused(tmp_path: Path) -> None:
    tokenizer = made()
    tokenizer.add_special_tokens(["[S]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[S] " * 100_000 + "$A", special_tokens=[("[S]", tokenizer.token_to_id("[S]"))]
    )
    with pytest.raises(ModelError, match=r"it makes 10\d,\d+ tokens of 3,100 characters"):
        open_tokenizer(written(tmp_path, tokenizer))


class Stuck:
    """A tokenizer that comes back when it is let go."""

    normalizer = pre_tokenizer = decoder = None

    def __init__(self) -> None:
        self.let_go = Event()

    def encode(self, _: str) -> None:
        self.let_go.wait()

    def no_truncation(self) -> None: ...

    def no_padding(self) -> None: ...


def test_a_tokenizer_that_does_not_come_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, stuck = written(tmp_path, made()), Stuck()
    monkeypatch.setattr(huggingface, "TRIAL_SECONDS", 0.01)
    monkeypatch.setattr(huggingface, "Tokenizer", SimpleNamespace(from_str=lambda _: stuck))
    with pytest.raises(ModelError, match=r"3,100 characters take it more than 0\.01 s"):
        open_tokenizer(path)
    stuck.let_go.set()


USUAL: dict[str, dict[str, Any]] = {
    "Llama": {
        "normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        "decoder": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    },
    "CLIP": {
        "normalizer": normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " ")]),
        "pre_tokenizer": pre_tokenizers.ByteLevel(),
    },
    "Albert": {
        "normalizer": normalizers.Sequence(
            [
                normalizers.Replace("``", '"'),
                normalizers.Replace("''", '"'),
                normalizers.NFKD(),
                normalizers.StripAccents(),
                normalizers.Lowercase(),
                normalizers.Replace(Regex(" {2,}"), " "),
            ]
        ),
        "pre_tokenizer": pre_tokenizers.Metaspace(),
    },
    "BERT": {"normalizer": normalizers.BertNormalizer(), "pre_tokenizer": pre_tokenizers.BertPreTokenizer()},
}


@pytest.mark.parametrize("parts", USUAL.values(), ids=USUAL)
def test_what_usual_tokenizers_do_is_taken(tmp_path: Path, parts: dict[str, Any]) -> None:
    assert open_tokenizer(written(tmp_path, made(**parts))).encode("aa")


def test_the_shipped_tokenizers_are_taken_at_once() -> None:
    for path in SHIPPED.glob("*/*/tokenizer.json"):
        read_tokenizer(path)
        began = time.process_time()
        read_tokenizer(path)
        assert time.process_time() - began < 1


def test_a_tokenizer_that_does_not_know_a_character_is_taken(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="[U]"))  # noqa: S106 - and it has no such token
    assert open_tokenizer(written(tmp_path, tokenizer)).encode("a") == [0]


def test_what_it_says_of_cutting_is_left_unheeded(tmp_path: Path) -> None:
    path = written(tmp_path, made())
    cutting = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation": cutting}))
    assert len(open_tokenizer(path).encode("abcdef")) == 6
