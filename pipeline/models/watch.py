"""Which version does a name mean now? Asked again and again, cheaply, while a worker runs.

Looking means the status of two or three files. Only when one of them has changed is a card read, and only when that is
another one are the version's files checked against their digests.
"""

from __future__ import annotations

from collections.abc import Hashable

from pipeline.models.card import VariantName
from pipeline.models.names import fingerprint, look_until_settled
from pipeline.models.store import ServedModel, read_model
from pipeline.settings import Settings

__all__ = ["Watch"]


class Watch:
    """Follows one name.

    Args:
        name: without a version.
        settings: where the store is, and what would run.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings
        self._seen: Hashable = None

    def look(self, model: ServedModel, variant: VariantName) -> ServedModel | None:
        """The version that the name means now, verified, or ``None`` while ``model`` and its ``variant`` are it.

        What was found wrong is told once: it is looked at again when the pointer or the card is written again.

        Raises:
            ModelError: there is no such version, or it is damaged.
        """
        seen = fingerprint(self.name, self._settings)
        if seen == self._seen:
            return None
        self._seen = seen
        return look_until_settled(self.name, self._settings, lambda: self._found(model, variant))

    def _found(self, model: ServedModel, variant: VariantName) -> ServedModel | None:
        found = read_model(self.name, self._settings)
        chosen = found.choice(self._settings).variant
        if (found, chosen) == (model, variant):
            return None
        found.verify(chosen)
        return found
