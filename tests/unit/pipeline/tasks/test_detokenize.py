from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.fakes import FakeTokenizer
from pipeline.tasks.detokenize import PieceDecoder, StopScanner


def decode_bytes(data: bytes) -> list[str]:
    decoder = PieceDecoder(FakeTokenizer().decode)
    return [decoder.push(byte) for byte in data] + [decoder.flush()]


def scan(pieces: Sequence[str], *stops: str) -> tuple[list[str], bool]:
    scanner = StopScanner(stops)
    out = []
    for piece in pieces:
        text, stopped = scanner.push(piece)
        out.append(text)
        if stopped:
            return out, True
    return [*out, scanner.flush()], False


def test_a_character_comes_whole_with_its_last_byte() -> None:
    assert decode_bytes("a日🙂".encode()) == ["a", "", "", "日", "", "", "", "🙂", ""]


def test_an_unfinished_character_comes_out_at_the_end_as_a_replacement() -> None:
    assert decode_bytes("a日".encode()[:-1]) == ["a", "", "", "\ufffd"]


def test_bytes_that_are_no_text_are_not_held_for_ever() -> None:
    assert any("\ufffd" in piece for piece in decode_bytes(b"\xff" * 20)[:-1])


def test_a_decoder_that_drops_a_leading_space_does_not_drop_spaces_between_pieces() -> None:
    words = ["", " one", " two", " three"]
    decoder = PieceDecoder(lambda ids: "".join(words[i] for i in ids).removeprefix(" "))
    assert [decoder.push(token) for token in (1, 2, 3)] == ["one", " two", " three"]


@given(st.text())
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    assert "".join(decode_bytes(text.encode())) == text


def test_text_without_stops_passes_at_once() -> None:
    assert scan(["ab", "c"]) == (["ab", "c", ""], False)


def test_what_may_begin_a_stop_is_held_until_it_is_clear() -> None:
    assert scan(["a#", "#", "b"], "###") == (["a", "", "##b", ""], False)


def test_a_stop_in_many_pieces_ends_the_text_before_it() -> None:
    assert scan(["say <", "en", "d> more"], "<end>") == (["say ", "", ""], True)


def test_the_stop_that_comes_first_in_the_text_counts() -> None:
    assert scan(["one two three"], "three", "two") == (["one "], True)


def test_held_text_comes_out_at_the_end() -> None:
    assert scan(["a<e"], "<end>") == (["a", "<e"], False)


@given(st.lists(st.text("ab", max_size=4)), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_the_text_ends_before_the_first_stop_however_it_is_cut(pieces: list[str], stops: list[str]) -> None:
    out, stopped = scan(pieces, *stops)
    text = "".join(out)
    assert "".join(pieces).startswith(text)
    assert not any(stop in text for stop in stops)
    assert stopped == any(stop in "".join(pieces) for stop in stops)
    assert stopped or text == "".join(pieces)


@pytest.mark.parametrize("stops", [(), ("x",)])
def test_empty_pieces_give_nothing(stops: tuple[str, ...]) -> None:
    assert scan(["", ""], *stops) == (["", "", ""], False)
