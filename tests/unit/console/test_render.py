from __future__ import annotations

import io

import pytest
from rich.console import Console

from console.output import printable
from console.picture import Picture
from console.render import answer_text, outcome_line

from .conftest import MakeOutcome


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc\x07\u202ed") == "a·[31mb c··d"


def test_a_line_says_the_place_the_key_the_answer_and_the_model(make_outcome: MakeOutcome) -> None:
    line = outcome_line(make_outcome(label="tabby", key="k")).plain
    assert line == "✓ t/1@7 k  tabby 0.62, other 0.25  (m int8, batch 4)"


def test_an_error_says_its_code_place_and_message(make_outcome: MakeOutcome) -> None:
    assert answer_text(make_outcome(error="not an image")) == "decode_error at value: not an image"


def test_an_answer_is_one_line(make_outcome: MakeOutcome) -> None:
    assert answer_text(make_outcome(text="\nDear Jane,\nthanks\n")) == "Dear Jane, thanks"


def drawn(picture: Picture, color_system: str | None) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=color_system is not None, width=80, color_system=color_system)  # type: ignore[arg-type]
    console.print(picture, end="")
    return out.getvalue()


def test_a_picture_is_half_blocks_in_true_colours(png: bytes) -> None:
    lines = drawn(Picture(png, columns=8, rows=4), "truecolor").splitlines()
    assert len(lines) == 4
    assert lines[0].count("▀") == 8
    assert "38;2;255;0;0;48;2;255;0;0" in lines[0]


def test_a_picture_keeps_its_proportions_and_is_centred(png: bytes) -> None:
    lines = drawn(Picture(png, columns=14, rows=4), None).splitlines()
    assert lines == ["   " + "▀" * 8 + "   "] * 4


def test_bytes_that_are_no_image_raise_oserror() -> None:
    with pytest.raises(OSError, match="cannot identify"):
        Picture(b"no", columns=2, rows=2)
