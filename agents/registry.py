"""The schema registry of the settings, for whoever decodes records."""

from __future__ import annotations

from pipeline.errors import SettingsError, install_extra
from pipeline.settings import Settings
from schemas.registry import RegistryDecoder

__all__ = ["open_registry"]


def open_registry(settings: Settings) -> RegistryDecoder | None:
    """What decodes Schema Registry framing; ``None`` where no registry is set.

    Raises:
        SettingsError: one is set, and its client is not installed.
    """
    if not settings.kafka.schema_registry_url:
        return None
    from schemas.registry import ConfluentRegistry

    try:
        return ConfluentRegistry(settings.kafka.schema_registry_url, settings.kafka.schema_registry_client)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"settings: kafka.schema_registry_url is set, but {error.name} is not installed: "
            f"{install_extra('registry')}, or leave the setting empty."
        ) from error
