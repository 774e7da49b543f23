"""The model store: where a worker finds the models it is told to serve.

Two shelves of the same layout, ``<name>/<version>/model.toml``: the user's store (``models.store``), filled by
``millrace models``, and the models shipped with Millrace. A version in the store hides a shipped one of the same name
and version. ``NAME@VERSION`` is that version and ``NAME`` the promoted one: the store's pointer says which, or else the
shipped shelf's (:mod:`pipeline.models.pointer`).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.models.card import NAME, ModelCard, VariantName, precision_of
from pipeline.models.cardfile import CARD_FILE, check_variant, read_card
from pipeline.models.choice import Choice, choose
from pipeline.models.device import find_device
from pipeline.models.install import changing
from pipeline.models.pointer import POINTER_FILE, RESERVED, read_pointer
from pipeline.models.profile import read_profile
from pipeline.models.replacing import is_between
from pipeline.models.shelves import PULLABLE, SHIPPED
from pipeline.settings import Settings
from schemas.messages import ModelInfo

__all__ = [
    "PULLABLE",
    "SHIPPED",
    "ServedModel",
    "find_folder",
    "find_model",
    "list_folders",
    "list_without_card",
    "pointed_version",
    "promoted_version",
    "read_folder",
    "read_model",
    "split_spec",
    "versions_of",
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
        raise ModelError(_not_found(name, version, settings))
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
        raise ModelError(_not_found(name, None, settings))
    if (version := pointed_version(name, settings)) is not None:
        return version
    if len(versions) > 1:
        raise ModelError(
            f"model {name} has several versions and none is promoted: {_listed(versions)}. Choose one with "
            f"`millrace models promote {name} VERSION`, or name it: {name}@VERSION."
        )
    return next(iter(versions))


def pointed_version(name: str, settings: Settings) -> str | None:
    """The version that the pointer of ``name`` names; ``None`` without a pointer.

    Raises:
        ModelError: the pointer is damaged, or that version is not here.
    """
    versions = versions_of(name, settings)
    for shelf in _shelves(settings):
        version = read_pointer(shelf / name)
        if version is not None and version not in versions:
            raise ModelError(
                f"the pointer {shelf / name / POINTER_FILE} names version {version!r}, which is not here, only "
                f"{_listed(versions) or 'none'}. Write it anew: `millrace models promote {name} VERSION`."
            )
        if version is not None:
            return version
    return None


def versions_of(name: str, settings: Settings) -> dict[str, Path]:
    """The folders of a model's versions, by version; the store's where the shipped shelf has the same."""
    shelves = reversed(_shelves(settings))
    return {folder.name: folder for shelf in shelves for folder in _folders(shelf, name)}


def list_folders(settings: Settings) -> list[Path]:
    """The folder of every version on the shelves, by name, newest first, whether its card can be read or not.

    A version in the store hides the shipped one.
    """
    folders = [folder for name in sorted(_names(settings)) for folder in versions_of(name, settings).values()]
    folders.sort(key=lambda folder: _natural(folder.name), reverse=True)
    return sorted(folders, key=lambda folder: folder.parent.name)


def list_without_card(settings: Settings) -> list[Path]:
    """Folders of the store that stand in a version's place and have no card: they are none, and nobody else tells."""
    found = [folder for name in _entries(settings.models.store_path) for folder in _places(name)]
    return sorted(folder for folder in found if folder.is_dir() and not _has_card(folder))


def read_folder(folder: Path) -> ServedModel:
    """The version in ``folder``, with only its card read and checked.

    Raises:
        ModelError: the card cannot be read, or describes something else.
    """
    card = read_card(folder)
    if (card.name, card.version) != (folder.parent.name, folder.name):
        raise ModelError(f"model card {folder / CARD_FILE} describes {card.name}@{card.version}, not this folder.")
    return ServedModel(card=card, folder=folder)


def _shelves(settings: Settings) -> tuple[Path, Path]:
    return settings.models.store_path, SHIPPED


def _listed(versions: Iterable[str]) -> str:
    return ", ".join(sorted(versions, key=_natural))


def _names(settings: Settings) -> set[str]:
    """Of the models that have a version on a shelf."""
    named = {(shelf, entry.name) for shelf in _shelves(settings) for entry in _entries(shelf)}
    return {name for shelf, name in named if any(_folders(shelf, name))}


def _folders(shelf: Path, name: str) -> Iterator[Path]:
    """Folders with a card."""
    if is_between(_entries(shelf / name)):  # someone is just replacing a version, or was killed then
        with contextlib.suppress(ModelError), changing(shelf, name):
            pass
    return filter(_has_card, _places(shelf / name))


def _places(model: Path) -> Iterator[Path]:
    """What is named as a version in the folder of a model; what is being built has names that no version has."""
    for entry in _entries(model):
        if SPEC.fullmatch(f"{model.name}@{entry.name}") and entry.name not in RESERVED:
            yield entry


def _has_card(folder: Path) -> bool:
    return os.path.exists(folder / CARD_FILE)  # noqa: PTH110 - Path's raises where it may not look


def _entries(folder: Path) -> list[Path]:
    """What is in ``folder``: nothing where it is none, may not be looked into, or went away just now."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries]
    except OSError:
        return []


def _not_found(name: str, version: str | None, settings: Settings) -> str:
    here = _names(settings)
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
