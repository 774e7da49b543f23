"""The names of classes: where they come from, and their file."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.family import Hints, Source
from pipeline.factory.sources.labels import labels_of, write_labels

SOURCE = Source(kind="huggingface", origin="tiny")


def test_labels_come_by_number_in_order_or_are_numbered() -> None:
    assert labels_of(SOURCE, 2, {"1": "dog", "0": "cat"}) == ("cat", "dog")
    assert labels_of(SOURCE, 2, ["cat", "dog"]) == ("cat", "dog")
    assert labels_of(SOURCE, 2, {"0": "cat"}) == ("class 0", "class 1")


def test_the_users_labels_win_and_must_be_as_many(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a\nb\n")
    source = replace(SOURCE, hints=Hints(labels=tmp_path / "mine.txt"))
    assert labels_of(source, 2, ["cat", "dog"]) == ("a", "b")
    with pytest.raises(ModelError, match="has 2 labels, and the network has 3 classes"):
        labels_of(source, 3)
    with pytest.raises(ModelError, match="labels cannot be read"):
        labels_of(replace(SOURCE, hints=Hints(labels=tmp_path / "gone.txt")), 2)


def test_a_label_is_one_line_of_its_file_whatever_is_in_it(tmp_path: Path) -> None:
    write_labels(["two\nlines", " wide \t open ", "plain"], tmp_path)
    assert (tmp_path / "labels.txt").read_text() == "two lines\nwide open\nplain\n"


@pytest.mark.parametrize(
    "known",
    [
        {"1": "cat", "2": "dog"},
        {"0": "cat", "2": "dog"},
        {"-1": "cat", "0": "dog"},
        {"0": "cat", "one": "dog"},
        {"0": "cat", "1.5": "dog"},
        {"0": "cat", "00": "dog"},
        {"0": "cat", "2": "dog", "3": "owl"},
    ],
)
def test_labels_that_are_not_counted_from_0_are_refused(known: dict[str, str]) -> None:
    first = next(iter(known))
    said = rf"tiny: config\.json numbers its labels {first}, .* \(id2label\).*--labels"
    with pytest.raises(ModelError, match=said):
        labels_of(SOURCE, 2, known)


def test_the_users_labels_stand_in_for_those_of_odd_numbers(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a\nb\n")
    source = replace(SOURCE, hints=Hints(labels=tmp_path / "mine.txt"))
    assert labels_of(source, 2, {"7": "cat", "x": "dog"}) == ("a", "b")
