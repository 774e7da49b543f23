from __future__ import annotations

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from console.output import printable
from console.picture import Picture
from console.render import answer_text, outcome_line
from schemas.messages import Box, DetectedObject, DetectionOutput, EmbeddingOutput, Output, Usage

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


def box(**sides: float) -> Box:
    return Box(**({"xmin": 12.4, "ymin": 40, "xmax": 310.25, "ymax": 224} | sides))


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (EmbeddingOutput(embedding=(0.05346, -0.11792, 0.99, 0.0)), "4 dimensions: 0.0535 -0.1179 0.9900 ..."),
        (DetectionOutput(objects=()), "no object"),
        (
            DetectionOutput(objects=(DetectedObject(label="a\ncat", score=0.984, box=box()),)),
            "a cat 0.98 [12 40 310 224]",
        ),
        (
            DetectionOutput(objects=tuple(DetectedObject(label=name, score=1, box=box()) for name in "abcde")),
            "a 1.00 [12 40 310 224], b 1.00 [12 40 310 224], c 1.00 [12 40 310 224] and 2 more",
        ),
    ],
)
def test_every_kind_of_output_is_one_line(make_outcome: MakeOutcome, output: Output, line: str) -> None:
    assert answer_text(make_outcome(output=output)) == line


def test_the_tokens_of_a_text_that_was_only_read_are_told(make_outcome: MakeOutcome) -> None:
    read = make_outcome(output=EmbeddingOutput(embedding=(1.0,)))
    usage = Usage(prompt_tokens=7, completion_tokens=0, total_tokens=7)
    assert "7 tokens" in outcome_line(replace(read, usage=usage)).plain


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
