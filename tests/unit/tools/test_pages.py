"""What the pages name must exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from console.main import COMMANDS
from pipeline.metrics import Metrics

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_operations_page_lists_every_metric_with_its_kind() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    listed = set(re.findall(r"^\| `(millrace_\w+)` \| (\w+) \|", page, re.MULTILINE))
    metrics = Metrics().registry.collect()
    assert listed == {(metric.name, metric.type) for metric in metrics if metric.name.startswith("millrace_")}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_command_in_a_page_is_one_of_ours(page: Path) -> None:
    named = set(re.findall(r"(?:^|`)millrace ([a-z]+)", page.read_text(), re.MULTILINE))
    assert named <= set(COMMANDS), page


def test_every_make_target_of_the_readme_is_in_the_makefile() -> None:
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {first or second for first, second in named} <= targets


def test_every_extra_in_the_readme_is_one_of_ours() -> None:
    named = set(re.findall(r"\.\[(\w+)\]", (ROOT / "README.md").read_text()))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert named <= set(extras)
