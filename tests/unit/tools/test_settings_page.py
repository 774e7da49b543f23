from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipeline.settings import Settings
from tools import settings_page


def test_the_page_in_the_repository_is_what_the_settings_say() -> None:
    assert settings_page.main(["--check"]) == 0


def test_every_key_of_every_section_has_a_row_with_its_environment_variable() -> None:
    rows = [line for line in settings_page.page().splitlines() if line.startswith("| `")]
    sections = msgspec.structs.fields(Settings)
    variables = [f"MILLRACE_{s.name}__{key.name}".upper() for s in sections for key in msgspec.structs.fields(s.type)]
    assert [row.split("`")[-2] for row in rows] == variables


def test_check_fails_when_the_page_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "settings.md"
    stale.write_text(settings_page.page().replace("`millrace`", "`mill`"))
    monkeypatch.setattr(settings_page, "PAGE", stale)
    assert settings_page.main(["--check"]) == 1
    assert "python -m tools.settings_page" in capsys.readouterr().err


def test_a_key_without_a_meaning_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = settings_page.MEANINGS.read_text()
    lines = [line for line in text.splitlines() if not line.startswith("drain_timeout_s")]
    meanings = tmp_path / "meanings.toml"
    meanings.write_text("\n".join(lines))
    monkeypatch.setattr(settings_page, "MEANINGS", meanings)
    with pytest.raises(ValueError, match=r"worker\.drain_timeout_s"):
        settings_page.page()


def test_a_meaning_without_a_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meanings = tmp_path / "meanings.toml"
    meanings.write_text(settings_page.MEANINGS.read_text() + '\nretired = "Gone."\n')
    monkeypatch.setattr(settings_page, "MEANINGS", meanings)
    with pytest.raises(ValueError, match="retired"):
        settings_page.page()
