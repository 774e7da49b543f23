"""Which version does a name mean now? Asked again and again, cheaply, while a worker runs.

Looking means the status of two or three files. Only when one of them has changed is a card read, and only when that is
another one are the version's files checked against their digests.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.models.card import VariantName
from pipeline.models.cardfile import CARD_FILE
from pipeline.models.pointer import POINTER_FILE
from pipeline.models.store import SHIPPED, ServedModel, find_folder, read_model
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
        seen = self._fingerprint()
        if seen == self._seen:
            return None
        self._seen = seen
        found = read_model(self.name, self._settings)
        chosen = found.choice(self._settings).variant
        if (found, chosen) == (model, variant):
            return None
        found.verify(chosen)
        return found

    def _fingerprint(self) -> Hashable:
        """Changes whenever the name may mean something else."""
        pointers = [shelf / self.name / POINTER_FILE for shelf in (self._settings.models.store_path, SHIPPED)]
        try:
            place: Path | str = find_folder(self.name, self._settings) / CARD_FILE
        except ModelError as error:
            place = str(error)
        files = [*pointers, place] if isinstance(place, Path) else pointers
        return (place, *map(_status, files))


def _status(file: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
