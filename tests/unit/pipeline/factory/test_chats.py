"""Chat templates as models bring them: what refuses every chat is not built, what refuses some is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.factory.chats import check_chats
from pipeline.models.card import ModelCard, TextSpec, Variant
from pipeline.models.store import ServedModel

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
REFUSES = "{{ raise_exception('Only user turns, please') }}"


def said_of(folder: Path, template: str | None) -> list[str]:
    """What is warned of."""
    if template is not None:
        (folder / "chat.jinja").write_text(template)
    text = TextSpec(
        tokenizer="t", layers=1, kv_heads=1, head_size=8, vocabulary=9, max_length=9, eos_token_ids=(),
        chat_template=None if template is None else "chat.jinja", special={"bos_token": "<s>"},
    )  # fmt: skip
    card = ModelCard(
        name="tiny", version="1", task="text-generation", description="", license="", source="", text=text,
        variants={"fp32": Variant(file="fp32.onnx", sha256="0" * 64)},
    )  # fmt: skip
    said: list[str] = []
    check_chats(ServedModel(card=card, folder=folder), said.append)
    return said


@pytest.mark.parametrize(
    "template",
    [None, TURNS, "{{ bos_token }}" + TURNS, "{% generation %}" + TURNS + "{% endgeneration %}"],
    ids=["none", "turns", "special", "generation"],
)
def test_of_a_template_that_takes_chats_nothing_is_said(tmp_path: Path, template: str | None) -> None:
    assert said_of(tmp_path, template) == []


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (REFUSES, "Only user turns, please"),
        ("{{ strftime_now('%d %b %Y') }}" + TURNS, "'strftime_now' is undefined"),
        ("{{ messages[0].content.nothing.at_all }}", "has no attribute"),
        ("", "nothing of what the user says is in what it makes"),
        ("{% for m in conversation %}{{ m.content }}{% endfor %}\n", "nothing of what the user says"),
        ("{% for m in messages %}[{{ m.role }}]{{ m.text }}{% endfor %}", "nothing of what the user says"),
    ],
    ids=["raises", "clock", "attribute", "empty", "misnamed", "without-words"],
)
def test_a_template_that_refuses_every_chat_is_refused_with_the_reason_and_the_way_out(
    tmp_path: Path, template: str, why: str
) -> None:
    with pytest.raises(ModelError, match=rf"^model tiny@1: its chat template takes no chat: .*{why}.*Mend it .*leave"):
        said_of(tmp_path, template)


def test_a_template_that_takes_no_system_turn_is_a_sound_one_and_told(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}" + REFUSES + "{% endif %}" + TURNS
    (said,) = said_of(tmp_path, template)
    assert said == (
        "its chat template takes no chat with a system message: Only user turns, please. Records with such a chat will "
        "fail, each alone; others are served."
    )


def test_a_template_that_takes_one_turn_alone_is_told_as_such(tmp_path: Path) -> None:
    (said,) = said_of(tmp_path, "{% if messages|length > 1 %}" + REFUSES + "{% endif %}" + TURNS)
    assert "takes no chat of several turns: Only user turns, please." in said
