"""The model store: where a worker finds the models it is told to serve.

Two shelves of the same layout, ``<name>/<version>/model.toml``: the user's store (``models.store``), filled by
``millrace models pull``, and the models shipped with Millrace. The store is searched first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.models.card import ModelCard, Precision, VariantName, precision_of
from pipeline.models.cardfile import CARD_FILE, check_variant, read_card
from pipeline.settings import Settings
from schemas.messages import ModelInfo

__all__ = ["PULLABLE", "SHIPPED", "ServedModel", "find_model", "list_models"]

SHIPPED = Path(__file__).parent / "shipped"
PULLABLE = ("smollm2-135m", "efficientnet-lite0")
PREFERENCE: tuple[Precision, ...] = ("int8", "fp16", "fp32")
SPEC = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,63})(@(?P<version>[a-z0-9][a-z0-9._-]{0,63}))?")


class ServedModel(Struct, frozen=True, kw_only=True):
    """A model version on disk: its card and the folder its files are in."""

    card: ModelCard
    folder: Path

    @property
    def spec(self) -> str:
        """``name@version``."""
        return f"{self.card.name}@{self.card.version}"

    def variant_for(self, wanted: Literal["auto", "int8", "fp16", "fp32"]) -> VariantName:
        """The variant that a setting means: ``auto`` takes INT8, else FP16, else FP32.

        Raises:
            ModelError: the model has no such variant.
        """
        for precision in PREFERENCE if wanted == "auto" else (wanted,):
            for variant in self.card.variants:
                if precision_of(variant) == precision:
                    return variant
        raise ModelError(
            f"model {self.spec} has no {wanted} variant, only {', '.join(self.card.variants)}. Set "
            "runtime.precision to one of these or to auto (`millrace models pull --keep-fp32` keeps fp32 too)."
        )

    def path(self, variant: VariantName) -> Path:
        """The main ONNX file of a variant. Raises KeyError for one that the model lacks."""
        return self.card.variant_path(self.folder, variant)

    def verify(self, variant: VariantName) -> None:
        """Check the SHA-256 of a variant and of the files beside it. Raises ModelError when one is not as it was."""
        check_variant(self.card, self.folder, variant)

    def info(self, variant: VariantName, provider: str) -> ModelInfo:
        """What an outcome says about the model that made it."""
        return ModelInfo(
            name=self.card.name,
            version=self.card.version,
            digest=self.card.variants[variant].digest,
            precision=precision_of(variant),
            provider=provider,
        )


def find_model(spec: str, settings: Settings) -> ServedModel:
    """Find ``name`` (its newest version) or ``name@version``, and verify what would be served of it.

    The variant that ``runtime.precision`` selects is checked against its digest, so a changed file never serves.

    Raises:
        ModelError: the name is malformed, unknown or not pulled yet, or a file is missing or damaged.
    """
    match = SPEC.fullmatch(spec)
    if match is None:
        raise ModelError(f"model {spec!r}: a model is named NAME or NAME@VERSION, in lower case.")
    folder = _find_folder(match["name"], match["version"], settings)
    model = _read(folder)
    model.verify(model.variant_for(settings.runtime.precision))
    return model


def list_models(settings: Settings) -> list[ServedModel]:
    """Every model version on the shelves, by name, newest first; a version in the store hides the shipped one.

    Raises:
        ModelError: a card cannot be read.
    """
    found: dict[tuple[str, str], ServedModel] = {}
    for shelf in _shelves(settings):
        for folder in _versions(shelf, "*"):
            found.setdefault((folder.parent.name, folder.name), _read(folder))
    return sorted(
        sorted(found.values(), key=lambda model: _natural(model.card.version), reverse=True),
        key=lambda model: model.card.name,
    )


def _shelves(settings: Settings) -> tuple[Path, Path]:
    return settings.models.store_path, SHIPPED


def _versions(shelf: Path, name: str) -> Iterator[Path]:
    return (card.parent for card in shelf.glob(f"{name}/*/{CARD_FILE}") if not card.parent.name.startswith("."))


def _find_folder(name: str, version: str | None, settings: Settings) -> Path:
    for shelf in _shelves(settings):
        folders = [folder for folder in _versions(shelf, name) if version in (None, folder.name)]
        if folders:
            return max(folders, key=lambda folder: _natural(folder.name))
    raise ModelError(_not_found(name, version, settings))


def _read(folder: Path) -> ServedModel:
    card = read_card(folder)
    if (card.name, card.version) != (folder.parent.name, folder.name):
        raise ModelError(f"model card {folder / CARD_FILE} describes {card.name}@{card.version}, not this folder.")
    return ServedModel(card=card, folder=folder)


def _not_found(name: str, version: str | None, settings: Settings) -> str:
    here = {folder.parent.name for shelf in _shelves(settings) for folder in _versions(shelf, "*")}
    place = f"neither in {settings.models.store_path} nor shipped with Millrace"
    if name in here:
        return f"model {name} has no version {version!r}: {place}. `millrace models list` shows the versions here."
    if name in PULLABLE:
        return f"model {name} is not here yet: {place}. Run `millrace models pull {name}`."
    nearest = difflib.get_close_matches(name, {*here, *PULLABLE}, n=1)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else "`millrace models list` shows the models here."
    return f"model {name} is unknown: {place}. {hint}"


def _natural(version: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which 0.10 follows 0.9."""
    parts = re.findall(r"\d+|[a-z]+", version)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)
