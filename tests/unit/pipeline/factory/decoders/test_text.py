from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.decoders.spec import DecoderSpec
from pipeline.factory.decoders.text import read_text_spec
from pipeline.factory.family import Source
from pipeline.models.card import TextSpec
from tests.unit.pipeline.factory.families.decoders import TEMPLATE, bench_of, save_tokenizer

SPEC = DecoderSpec(
    shape="llama", layers=1, hidden=8, heads=1, kv_heads=1, head_size=8, mlp=8, vocabulary=300, max_length=16
)


def read(folder: Path, config: dict[str, Any] | None = None, spec: DecoderSpec = SPEC) -> TextSpec:
    return read_text_spec(
        Source(kind="huggingface", origin="tiny", path=folder, config=config or {}), bench_of(folder), spec
    )


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def template(folder: Path) -> str:
    return (folder / "built" / "chat_template.jinja").read_text()


def test_the_chat_template_is_taken_from_the_tokenizers_configuration(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    assert read(tmp_path).chat_template == "chat_template.jinja"
    assert template(tmp_path) == TEMPLATE


def test_of_several_templates_the_default_one_is_taken(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    both = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    rewrite(tmp_path, chat_template=both)
    read(tmp_path)
    assert template(tmp_path) == "plain"


def test_a_template_in_a_file_of_its_own_comes_first(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "of the processor"}))
    (tmp_path / "chat_template.jinja").write_text("of the file")
    read(tmp_path)
    assert template(tmp_path) == "of the file"


def test_a_model_without_a_template_has_none_in_its_card(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    rewrite(tmp_path, chat_template=None)
    assert read(tmp_path).chat_template is None


def test_a_template_with_an_error_is_refused_when_the_model_is_built(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    rewrite(tmp_path, chat_template="{% if %}")
    with pytest.raises(ModelError, match="the chat template cannot be read"):
        read(tmp_path)


def test_where_no_configuration_says_what_ends_the_tokenizers_end_does(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    assert read(tmp_path).eos_token_ids == (257,)


def test_a_tokenizer_that_adds_nothing_puts_nothing_before_a_prompt(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    assert read(tmp_path, {"bos_token_id": 256}).bos_token_id is None


def test_a_folder_without_a_tokenizer_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no .*tokenizer\.json.*AutoTokenizer"):
        read(tmp_path)


def test_a_tokenizer_that_can_make_a_text_explode_is_refused_when_the_model_is_built(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    doubling = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    exploding = {"type": "Sequence", "normalizers": [doubling] * 60}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"normalizer": exploding}))
    with pytest.raises(ModelError, match=r"tokenizer\.json.* more than 64 times as long"):
        read(tmp_path)


def test_the_tokenizer_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    small = DecoderSpec(
        shape="llama", layers=1, hidden=8, heads=1, kv_heads=1, head_size=8, mlp=8, vocabulary=100, max_length=16
    )
    with pytest.raises(ModelError, match="has a token 258, and the model knows 100"):
        read(tmp_path, spec=small)


def test_an_added_token_that_the_embedding_has_no_row_for_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)  # 256 bytes, and three tokens that were added
    with pytest.raises(ModelError, match="has a token 258, and the model knows 258"):
        read(tmp_path, spec=replace(SPEC, vocabulary=258))
    (tmp_path / "again").mkdir()
    save_tokenizer(tmp_path / "again")
    assert read(tmp_path / "again", spec=replace(SPEC, vocabulary=259)).vocabulary == 259


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config\.json: cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_end_beyond_the_vocabulary_is_refused_by_its_file_and_key(tmp_path: Path, file: str) -> None:
    save_tokenizer(tmp_path)
    key = "eos_token_id"
    if file != "config.json":
        (tmp_path / file).write_text(json.dumps({key: 300}))
    with pytest.raises(ModelError, match=rf"{tmp_path}/{file}: {key} is 300, and the model knows the tokens 0 to 299"):
        read(tmp_path, {key: 300} if file == "config.json" else {})


@pytest.mark.parametrize("ends", [-1, [257, 300], "257", [True], 2.0])
def test_what_is_no_token_does_not_end_an_answer(tmp_path: Path, ends: object) -> None:
    save_tokenizer(tmp_path)
    with pytest.raises(ModelError, match=r"config\.json: text_config\.eos_token_id is .*, and the model knows"):
        read(tmp_path, {"text_config": {"eos_token_id": ends}})


def test_what_begins_and_pads_a_text_refuses_no_decoder_for_it_reads_neither(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    assert read(tmp_path, {"bos_token_id": -1, "pad_token_id": 300, "eos_token_id": 258}).eos_token_ids == (258,)
