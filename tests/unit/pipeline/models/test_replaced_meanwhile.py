"""A version that is replaced while its files are checked: they are another card's then, and nothing is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.models.card import ModelCard, VariantName
from pipeline.models.cardfile import check_variant, read_card
from pipeline.models.names import LOOKS
from pipeline.models.promotion import promote
from pipeline.models.replacing import replace_folder
from pipeline.models.store import find_model
from pipeline.models.watch import Watch
from pipeline.settings import ModelSettings, Settings
from tests.model_store import put_version


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    put_version(tmp_path / "store", "1")
    return Settings(models=ModelSettings(store=str(tmp_path / "store")))


@pytest.fixture
def replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Has the version replaced after its card was read and before its files are, as often as is said.

    What it returns holds the digest of each graph that has come to stand there.
    """

    def replaced(times: int) -> list[str]:
        digests: list[str] = []

        def replace_and_check(card: ModelCard, folder: Path, variant: VariantName) -> None:
            if len(digests) < times:
                built = put_version(tmp_path / "built", "1", graph=f"graph {len(digests)}".encode())
                digests.append(read_card(built).variants["int8"].digest)
                replace_folder(built, folder)
            check_variant(card, folder, variant)

        monkeypatch.setattr("pipeline.models.store.check_variant", replace_and_check)
        return digests

    return replaced


@pytest.mark.parametrize("times", [1, LOOKS - 1])
def test_a_version_that_is_replaced_while_a_worker_checks_it_is_served_as_it_is_then(
    settings: Settings, replaced: Callable[[int], list[str]], times: int
) -> None:
    digests = replaced(times)
    assert find_model("toy", settings).card.variants["int8"].digest == digests[times - 1]


def test_one_that_is_replaced_without_end_is_looked_at_a_bounded_number_of_times(
    settings: Settings, replaced: Callable[[int], list[str]]
) -> None:
    digests = replaced(1000)
    with pytest.raises(ModelError, match="is damaged"):
        find_model("toy", settings)
    assert len(digests) == LOOKS


def test_one_that_is_damaged_and_not_replaced_is_looked_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def damaged(_card: ModelCard, _folder: Path, variant: VariantName) -> None:
        looked.append(variant)
        raise ModelError("int8.onnx is damaged")

    monkeypatch.setattr("pipeline.models.store.check_variant", damaged)
    with pytest.raises(ModelError, match="is damaged"):
        find_model("toy", settings)
    assert looked == ["int8"]


def test_a_worker_that_follows_its_name_takes_the_version_that_came_meanwhile_and_tells_of_no_damage(
    settings: Settings, replaced: Callable[[int], list[str]]
) -> None:
    serving, watching = find_model("toy", settings), Watch("toy", settings)
    put_version(settings.models.store_path, "1", graph=b"built again")
    digests = replaced(1)
    found = watching.look(serving, "int8")
    assert found is not None
    assert found.card.variants["int8"].digest == digests[0]


def test_a_version_that_is_replaced_while_it_is_promoted_is_promoted_as_it_is_then(
    settings: Settings, replaced: Callable[[int], list[str]]
) -> None:
    digests = replaced(1)
    model, _ = promote("toy", "1", settings)
    assert model.card.variants["int8"].digest == digests[0]
