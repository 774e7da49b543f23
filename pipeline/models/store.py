"""The model store: where a worker finds the models it is told to serve.

Two shelves of the same layout, ``<name>/<version>/model.toml``: the user's store (``models.store``), filled by
``millrace models``, and the models shipped with Millrace. A version in the store hides a shipped one of the same name
and version. ``NAME@VERSION`` is that version and ``NAME`` the promoted one: the store's pointer says which, or else the
shipped shelf's (:mod:`pipeline.models.pointer`).
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.models.card import NAME, ModelCard, VariantName, precision_of
from pipeline.models.cardfile import CARD_FILE, check_variant, read_card
from pipeline.models.choice import Choice, choose
from pipeline.models.device import find_device
from pipeline.models.folders import in_order, names_of_models, shelves, versions_of
from pipeline.models.pointer import POINTER_FILE, read_pointer
from pipeline.models.profile import read_profile
from pipeline.models.shelves import PULLABLE, SHIPPED
from pipeline.settings import Settings
from schemas.messages import ModelInfo

__all__ = [
    "PULLABLE",
    "SHIPPED",
    "ServedModel",
    "find_folder",
    "find_model",
    "not_found",
    "pointed_version",
    "promoted_version",
    "read_folder",
    "read_model",
    "split_spec",
]

SPEC = re.compile(f"(?P<name>{NAME})(@(?P<version>{NAME}))?")


class ServedModel(Struct, frozen=True, kw_only=True):
    """A model version on disk: its card and the folder its files are in."""

    card: ModelCard
    folder: Path

    @property
    def spec(self) -> str:
        """``name@version``."""
        return f"{self.card.name}@{self.card.version}"

    def choice(self, settings: Settings) -> Choice:
        """How the model runs under ``settings`` on this machine, by the profile measured here if there is one.

        Raises:
            ModelError: the model has no variant for it.
        """
        device = find_device(settings.runtime)
        size = settings.batching.max_batch_size if self.card.text is None else settings.batching.max_slots
        return choose(
            self.card,
            wanted=settings.runtime.precision,
            provider=device.provider,
            profile=read_profile(settings.models.store_path, self.card, device.key),
            threads=settings.runtime.threads,
            max_batch_size=size,
        )

    def path(self, variant: VariantName) -> Path:
        """The main ONNX file of a variant. Raises KeyError for one that the model lacks."""
        return self.card.variant_path(self.folder, variant)

    def check_replaces(self, before: ServedModel) -> None:
        """Check that this one may stand in the place of ``before``. Raises ModelError when it is for another task."""
        if self.card.task != before.card.task:
            raise ModelError(
                f"{self.spec} does {self.card.task} and {before.spec} does {before.card.task}: what asks for it "
                "expects that. Give the new one a name of its own."
            )

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
    """Find ``name`` (its promoted version) or ``name@version``, and verify what would be served of it.

    The variant that would run is checked against its digest, so a changed file never serves.

    Raises:
        ModelError: the name is malformed, unknown or not pulled yet, no version is promoted, or a file is missing or
            damaged.
    """
    model = read_model(spec, settings)
    model.verify(model.choice(settings).variant)
    return model


def read_model(spec: str, settings: Settings) -> ServedModel:
    """As :func:`find_model`, with only the card read and checked. Raises ModelError."""
    return read_folder(find_folder(spec, settings))


def find_folder(spec: str, settings: Settings) -> Path:
    """The folder of ``name`` or ``name@version``; nothing in it is read. Raises ModelError."""
    name, version = split_spec(spec)
    folders = versions_of(name, settings)
    if version is None and folders:
        version = promoted_version(name, settings)
    if version not in folders:
        raise ModelError(not_found(name, version, settings))
    return folders[version]


def split_spec(spec: str) -> tuple[str, str | None]:
    """The name and the version that ``spec`` consists of. Raises ModelError for what can be neither."""
    match = SPEC.fullmatch(spec)
    if match is None:
        raise ModelError(f"model {spec!r}: a model is named NAME or NAME@VERSION, in lower case.")
    return match["name"], match["version"]


def promoted_version(name: str, settings: Settings) -> str:
    """The version that ``name`` means: the pointer's, or the only one.

    Raises:
        ModelError: the model is not here, none of several versions is promoted, or the pointer names none of them.
    """
    versions = versions_of(name, settings)
    if not versions:
        raise ModelError(not_found(name, None, settings))
    if (version := pointed_version(name, settings)) is not None:
        return version
    if len(versions) > 1:
        raise ModelError(
            f"model {name} has several versions and none is promoted: {', '.join(in_order(versions))}. Choose one with "
            f"`millrace models promote {name} VERSION`, or name it: {name}@VERSION."
        )
    return next(iter(versions))


def pointed_version(name: str, settings: Settings) -> str | None:
    """The version that the pointer of ``name`` names; ``None`` without a pointer.

    Raises:
        ModelError: the pointer is damaged, or that version is not here.
    """
    versions = versions_of(name, settings)
    for shelf in shelves(settings):
        version = read_pointer(shelf / name)
        if version is not None and version not in versions:
            raise ModelError(
                f"the pointer {shelf / name / POINTER_FILE} names version {version!r}, which is not here, only "
                f"{', '.join(in_order(versions)) or 'none'}. Write it anew: `millrace models promote {name} VERSION`."
            )
        if version is not None:
            return version
    return None


def read_folder(folder: Path) -> ServedModel:
    """The version in ``folder``, with only its card read and checked.

    Raises:
        ModelError: the card cannot be read, or describes something else.
    """
    card = read_card(folder)
    if (card.name, card.version) != (folder.parent.name, folder.name):
        raise ModelError(f"model card {folder / CARD_FILE} describes {card.name}@{card.version}, not this folder.")
    return ServedModel(card=card, folder=folder)


def not_found(name: str, version: str | None, settings: Settings) -> str:
    """What is said of a model or a version that is not here, with the name that may be meant."""
    here = names_of_models(settings)
    place = f"neither in {settings.models.store_path} nor shipped with Millrace"
    if name in here:
        return f"model {name} has no version {version!r}: {place}. `millrace models list` shows the versions here."
    if name in PULLABLE:
        return f"model {name} is not here yet: {place}. Run `millrace models pull {name}`."
    nearest = difflib.get_close_matches(name, {*here, *PULLABLE}, n=1)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else "`millrace models list` shows the models here."
    return f"model {name} is unknown: {place}. {hint}"
