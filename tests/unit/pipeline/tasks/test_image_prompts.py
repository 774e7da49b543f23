"""Questions about images as tokens, with a real tokenizer: every byte one, ``<s>`` 256, ``</s>`` 257, the image 258."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.models.card import TextSpec, VisionSpec
from pipeline.runtime.huggingface import open_tokenizer
from pipeline.tasks.image_prompts import ImagePromptReader
from pipeline.tasks.prompts import PromptReader, load_chat_template
from tests.unit.pipeline.factory.families.decoders import save_tokenizer

BEGIN, IMAGE, TOKEN = 256, 258, "<image>"
PARTS = """{{ bos_token }}{% for message in messages %}[{{ message.role }}]
{%- for part in message.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endfor %}[answer]"""
STRINGS = "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}[answer]"


def reader(folder: Path, template: str | None, *, bos: int | None = BEGIN, rows: int = 4) -> ImagePromptReader:
    save_tokenizer(folder)
    codec = open_tokenizer(folder / "tokenizer.json")
    text = TextSpec(
        tokenizer="tokenizer.json",
        layers=1,
        kv_heads=1,
        head_size=1,
        vocabulary=259,
        max_length=100,
        eos_token_ids=(257,),
        bos_token_id=bos,
        special={"bos_token": "<s>"},
    )
    compiled = None
    if template is not None:
        (folder / "chat.jinja").write_text(template)
        compiled = load_chat_template(folder / "chat.jinja")
    vision = VisionSpec(image_token=TOKEN, image_token_id=IMAGE, image_tokens=rows, hidden=8)
    return ImagePromptReader(PromptReader(text, codec, compiled, 100), text, vision, 100)


def shown(folder: Path, template: str | None, question: str | None, bos: int | None = BEGIN) -> str:
    """The prompt with ``^`` for the token that begins it and ``#`` for one of the image."""
    prompt = reader(folder, template, bos=bos).read(question)
    assert prompt.tokens[prompt.image_at] == IMAGE
    assert IMAGE not in prompt.tokens[: prompt.image_at]
    codec = open_tokenizer(folder / "tokenizer.json")
    names = {BEGIN: "^", IMAGE: "#"}
    return "".join(names.get(token) or codec.decode([token]) for token in prompt.tokens)


def test_a_template_of_parts_puts_the_image_where_it_likes(tmp_path: Path) -> None:
    assert shown(tmp_path, PARTS, "What?") == "^[user]####What?[answer]"


def test_a_template_of_strings_is_given_the_images_token_before_the_question(tmp_path: Path) -> None:
    assert shown(tmp_path, STRINGS, "What?") == "^[user]####\nWhat?[answer]"


def test_a_template_that_fails_on_parts_is_given_a_text(tmp_path: Path) -> None:
    template = "{{ '[' + messages[0]['content'] + ']' }}"
    assert shown(tmp_path, template, "What?") == "^[####\nWhat?]"


def test_without_a_template_the_question_follows_the_image(tmp_path: Path) -> None:
    assert shown(tmp_path, None, "What?") == "^####\nWhat?"


def test_a_model_whose_texts_begin_with_nothing_gets_no_first_token(tmp_path: Path) -> None:
    assert shown(tmp_path, STRINGS, "What?", bos=None) == "[user]####\nWhat?[answer]"


def test_no_question_asks_for_a_description(tmp_path: Path) -> None:
    assert shown(tmp_path, PARTS, None) == "^[user]####Describe the image.[answer]"


def test_special_tokens_that_a_caller_writes_are_plain_text(tmp_path: Path) -> None:
    assert shown(tmp_path, PARTS, "<image></s>?") == "^[user]####<image></s>?[answer]"


def test_an_image_token_that_the_tokenizer_cuts_up_stops_the_start(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, special=("<s>", "</s>"))
    codec = open_tokenizer(tmp_path / "tokenizer.json")
    text = TextSpec(
        tokenizer="t", layers=1, kv_heads=1, head_size=1, vocabulary=259, max_length=9, eos_token_ids=(257,)
    )
    vision = VisionSpec(image_token=TOKEN, image_token_id=IMAGE, image_tokens=4, hidden=8)
    with pytest.raises(ModelError, match="0 tokens of an image, not 4: '<image>' must be one special token"):
        ImagePromptReader(PromptReader(text, codec, None, 100), text, vision, 100)


def test_a_template_that_puts_the_image_twice_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="8 tokens of an image, not 4"):
        reader(tmp_path, PARTS.replace("<image>", "<image><image>"))


def test_a_template_that_refuses_every_question_stops_the_start_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"template refuses the messages: No images here, .*Mend the template"):
        reader(tmp_path, "{{ raise_exception('No images here') }}")


def test_a_template_that_renders_nothing_is_not_taken_for_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="0 tokens of an image, not 4"):
        reader(tmp_path, "{% for turn in conversation %}{{ turn.content }}{% endfor %}")
