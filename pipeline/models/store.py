"""The model store: where a worker finds the models it is told to serve.

Two shelves of the same layout, ``<name>/<version>/model.toml``: the user's store (``models.store``), filled by
``millrace models``, and the models shipped with Millrace. A version in the store hides a shipped one of the same name
and version. Which version a name means is found by :mod:`pipeline.models.names`.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.models.card import ModelCard, VariantName, precision_of
from pipeline.models.cardfile import CARD_FILE, check_variant, read_card
from pipeline.models.choice import Choice, choose
from pipeline.models.device import find_device
from pipeline.models.names import find_folder, look_until_settled
from pipeline.models.profile import read_profile
from pipeline.models.shelves import PULLABLE, SHIPPED
from pipeline.settings import Settings
from schemas.messages import ModelInfo

__all__ = [
    "PULLABLE",
    "SHIPPED",
    "ServedModel",
    "find_model",
    "read_folder",
    "read_model",
]


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

    def verified(self) -> ServedModel:
        """This model, once every variant is verified. Raises ModelError."""
        for variant in self.card.variants:
            self.verify(variant)
        return self

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

    def find() -> ServedModel:
        model = read_model(spec, settings)
        model.verify(model.choice(settings).variant)
        return model

    return look_until_settled(spec, settings, find)


def read_model(spec: str, settings: Settings) -> ServedModel:
    """As :func:`find_model`, with only the card read and checked. Raises ModelError."""
    return read_folder(find_folder(spec, settings))


def read_folder(folder: Path) -> ServedModel:
    """The version in ``folder``, with only its card read and checked.

    Raises:
        ModelError: the card cannot be read, or describes something else.
    """
    card = read_card(folder)
    if (card.name, card.version) != (folder.parent.name, folder.name):
        raise ModelError(f"model card {folder / CARD_FILE} describes {card.name}@{card.version}, not this folder.")
    return ServedModel(card=card, folder=folder)
