from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastavro
import jsonschema
import msgspec
import pytest

from schemas import generate
from schemas.avro_types import avro_schema
from schemas.dead_letters import dead_letter
from schemas.errors import ValidationError
from schemas.messages import Source, TokenPiece
from schemas.outcomes import encode_outcome, encode_token, error_outcome
from tests.unit.schemas.samples import PNG_BASE64, record

EXAMPLES: list[tuple[str, dict[str, Any]]] = [
    ("request", {"prompt": "Hello", "max_tokens": 5, "stop": "END"}),
    (
        "request",
        {"messages": [{"role": "user", "content": "Hello"}], "stop": ["END"], "expirytime": "2030-01-01T00:00:00Z"},
    ),
    ("request", {"image": PNG_BASE64, "top_k": 3}),
    ("request", {"image": PNG_BASE64, "candidate_labels": ["a", "b"], "hypothesis_template": "a {}"}),
    ("request", {"dataref": "file:///a.png", "threshold": 0.5, "prompt": "What?", "stop": "END"}),
    ("outcome", json.loads(encode_outcome(error_outcome(record(b""), ValidationError("no"), None, now_ms=1))[0])),
    (
        "token",
        json.loads(
            encode_token(
                TokenPiece(
                    outcome_id="o", request_id="r", source=Source(topic="t", partition=0, offset=0), index=0, text="x"
                )
            )[0]
        ),
    ),
    (
        "dead-letter-headers",
        {name: (value or b"").decode() for name, value in dead_letter(record(b""), ValidationError("no"), "w").headers},
    ),
]


def schema(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(generate.documents()[f"json/{name}.schema.json"])
    return tree


def test_the_checked_in_files_are_what_the_structs_generate() -> None:
    assert generate.main(["--check"]) == 0


def test_a_stale_missing_or_foreign_file_fails_the_check_until_the_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "_FOLDER", tmp_path)
    assert generate.main(["--check"]) == 1
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / "json" / "token.schema.json").write_text("{}")
    (tmp_path / "avro" / "old.avsc").write_text("{}")
    capsys.readouterr()
    assert generate.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "avro/old.avsc is stale" in said
    assert "json/token.schema.json is stale" in said


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_examples_fit_their_json_schema(name: str, example: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))
    jsonschema.validate(example, schema(name))


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt": ""},
        {"prompt": "x", "max_tokens": 0},
        {"zzz": 1},
        {"messages": [{"role": "bot", "content": ""}]},
        {"image": PNG_BASE64, "hypothesis_template": "no place"},
        {"image": PNG_BASE64, "candidate_labels": [""]},
    ],
)
def test_what_the_decoder_refuses_the_schema_refuses(bad: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema("request"))


@pytest.mark.parametrize("name", ["prompt-request", "image-request"])
def test_avro_files_are_valid_and_every_field_has_a_default(name: str) -> None:
    tree = json.loads(generate.documents()[f"avro/{name}.avsc"])
    fastavro.parse_schema(tree)
    assert all("default" in field for field in tree["fields"])


def test_a_type_that_avro_lacks_is_refused() -> None:
    class Odd(msgspec.Struct):
        odd: set[str]

    with pytest.raises(TypeError, match="Avro has no type"):
        avro_schema(Odd)
    with pytest.raises(TypeError, match="is not a struct"):
        avro_schema(int)  # type: ignore[arg-type]
