from __future__ import annotations

import logging
from pathlib import Path

import pytest
from msgspec.structs import replace

from pipeline.models.card import ModelCard, Variant
from pipeline.models.profile import Point, Profile, profile_path, read_profile, write_profile

CARD = ModelCard(
    name="toy",
    version="1",
    task="embeddings",
    description="",
    license="",
    source="",
    variants={"int8": Variant(file="int8.onnx", sha256="a" * 64)},
)
POINTS = (Point(variant="int8", threads=2, batch_size=8, per_second=120.5, prefill_per_second=900.0),)
PROFILE = Profile(model="toy@1", device="cpu-2-cores", digests={"int8": "a" * 64}, points=POINTS)


def test_a_profile_reads_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_profile(tmp_path, CARD, "cpu-2-cores") is None
    path = write_profile(tmp_path, CARD, PROFILE)
    assert path == tmp_path / "toy" / "profiles" / "1.cpu-2-cores.toml"
    assert read_profile(tmp_path, CARD, "cpu-2-cores") == PROFILE


def test_a_profile_of_other_files_is_ignored(tmp_path: Path) -> None:
    write_profile(tmp_path, CARD, PROFILE)
    rebuilt = replace(CARD, variants={"int8": Variant(file="int8.onnx", sha256="b" * 64)})
    assert read_profile(tmp_path, rebuilt, "cpu-2-cores") is None
    assert read_profile(tmp_path, replace(CARD, variants={}), "cpu-2-cores") is None


def test_a_profile_of_another_device_is_ignored_even_under_this_one_s_name(tmp_path: Path) -> None:
    write_profile(tmp_path, CARD, PROFILE)
    assert read_profile(tmp_path, CARD, "cpu-4-cores") is None
    profile_path(tmp_path, CARD, "cpu-2-cores").rename(profile_path(tmp_path, CARD, "cpu-4-cores"))
    assert read_profile(tmp_path, CARD, "cpu-4-cores") is None


@pytest.mark.parametrize("content", [b"points = 3", b"not toml", b"\xff", b""])
def test_a_damaged_profile_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    write_profile(tmp_path, CARD, PROFILE).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert read_profile(tmp_path, CARD, "cpu-2-cores") is None
    assert "millrace models tune toy" in caplog.text
