"""What ``millrace models tune`` has measured of a model on one device, kept beside its versions in the store.

The file is ``<store>/<name>/profiles/<version>.<device>.toml``. A profile of other files than the card's, or of another
device, says nothing and is ignored.
"""

from __future__ import annotations

import contextlib
import logging
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import tomli_w
from msgspec import Meta, Struct

from pipeline.models.card import ModelCard, VariantName
from pipeline.models.files import replace_file
from pipeline.numbers import Positive

__all__ = ["Point", "Profile", "profile_path", "profiles_of", "read_profile", "write_profile"]

LOG = logging.getLogger(__name__)


class Point(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement.

    Attributes:
        threads: of ONNX Runtime.
        batch_size: records in each run; of a text generation model, answers decoded at once.
        per_second: records, or tokens decoded, all answers together.
        prefill_per_second: tokens of one prompt read; 0 where that was not measured.
    """

    variant: VariantName
    threads: Positive
    batch_size: Positive
    per_second: Annotated[float, Meta(gt=0)]
    prefill_per_second: Annotated[float, Meta(ge=0)] = 0.0


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measurements of one version on one device.

    Attributes:
        model: ``name@version``.
        device: its key.
        digests: of the variants that were measured.
    """

    model: str
    device: str
    digests: dict[VariantName, str]
    points: tuple[Point, ...]


def profile_path(store: Path, card: ModelCard, device: str) -> Path:
    """Where the profile of a version on ``device`` (its key) is."""
    return store / card.name / "profiles" / f"{card.version}.{device}.toml"


def read_profile(store: Path, card: ModelCard, device: str) -> Profile | None:
    """The profile of the card's files on ``device``; ``None`` if there is none, or one that says nothing about them."""
    path = profile_path(store, card, device)
    try:
        profile = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Profile)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        LOG.warning("the profile %s is ignored: %s. `millrace models tune %s` makes a new one.", path, error, card.name)
        return None
    same = all(name in card.variants and card.variants[name].digest == it for name, it in profile.digests.items())
    return profile if same and profile.device == device else None


def profiles_of(store: Path, name: str, version: str) -> list[Path]:
    """The files of a version's profiles, on whatever device."""
    found = []
    # What is in them decides: a version's name may begin as another's does.
    for path in (store / name / "profiles").glob(f"{version}.*.toml"):
        with contextlib.suppress(OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            if tomllib.loads(path.read_text(encoding="utf-8")).get("model") == f"{name}@{version}":
                found.append(path)
    return found


def write_profile(store: Path, card: ModelCard, profile: Profile) -> Path:
    """Keep ``profile``; its path. Raises OSError."""
    path = profile_path(store, card, profile.device)
    replace_file(path, tomli_w.dumps(msgspec.to_builtins(profile)))
    return path
