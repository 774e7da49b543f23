"""The JSON files beside a model: what they must hold, and what is said of those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.factory.sources.json_file import read_json_object, read_json_objects


def written(folder: Path, text: str) -> Path:
    (folder / "some.json").write_text(text)
    return folder / "some.json"


def test_an_object_comes_out_as_it_is(tmp_path: Path) -> None:
    assert read_json_object(written(tmp_path, '{"a": [1]}'), missing={}) == {"a": [1]}
    assert read_json_objects(written(tmp_path, '[{"a": 1}, {}]')) == [{"a": 1}, {}]


def test_a_file_that_may_be_missing_has_a_stand_in_and_another_is_refused(tmp_path: Path) -> None:
    assert read_json_object(tmp_path / "some.json", missing={"a": 2}) == {"a": 2}
    assert read_json_objects(tmp_path / "some.json") == []
    with pytest.raises(ModelError, match=r"some\.json: cannot be read"):
        read_json_object(tmp_path / "some.json")


@pytest.mark.parametrize("text", ["{", "", "\udcff", "[" * 100_000], ids=["cut", "empty", "binary", "deep"])
def test_damage_is_refused_even_where_a_file_may_be_missing(tmp_path: Path, text: str) -> None:
    (tmp_path / "some.json").write_bytes(text.encode(errors="surrogateescape"))
    for read in (read_json_objects, lambda path: read_json_object(path, missing={})):
        with pytest.raises(ModelError, match=r"some\.json: cannot be read"):
            read(tmp_path / "some.json")


def test_what_is_not_an_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds a list, not an object"):
        read_json_object(written(tmp_path, "[]"), missing={})
    for text in ('{"a": 1}', '["a"]'):
        with pytest.raises(ModelError, match="something else than a list of objects"):
            read_json_objects(written(tmp_path, text))
