"""``millrace models build``: a source in, an FP32 version in the store, tried out before anybody can serve it."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.families import find_family
from pipeline.factory.family import Family, Source, Workbench
from pipeline.factory.progress import Progress
from pipeline.models.cardfile import CARD_FILE, read_card, write_card
from pipeline.models.install import install, locked, staging
from pipeline.models.pointer import RESERVED
from pipeline.models.store import SHIPPED, ServedModel
from pipeline.runtime.onnx import OnnxBackend
from pipeline.settings import BatchingSettings, Settings
from pipeline.tasks.make import make_task

__all__ = ["build", "next_version", "try_out"]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MEGABYTE = 1_000_000
# The weights in FP32 (twice the file where that is bfloat16), and once more while the graph is written.
DISK_FACTOR, DISK_EXTRA = 3, 50 * MEGABYTE
TRIAL = BatchingSettings(max_batch_size=3, max_slots=2, max_length=256)


def build(
    source: Source,
    settings: Settings,
    *,
    name: str,
    version: str | None = None,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> ServedModel:
    """Make a version of ``name`` in the store from ``source``; promote it if it is the first.

    Args:
        source: found by :func:`pipeline.factory.sources.source.resolve_source`.
        settings: ``models.store`` says where.
        name: in the store.
        version: ``None`` takes the next free whole number.
        force: replace the version if it is there.
        progress: told what is going on.

    Raises:
        ModelError: the version is there already, no family builds the source, the graphs do not do what the card says,
            or there is no room or right to write. The store is then as it was.
    """
    family, store = find_family(source), settings.models.store_path
    _check_name("name", name)
    with locked(store, name):
        version = version or next_version(store, name)
        _check_name("version", version)
        target = store / name / version
        if target.exists() and not force:
            raise ModelError(
                f"model {name}@{version} is there already ({target}). Leave --version out to build the next one, or "
                "add --force to replace it."
            )
        with staging(store, name, _disk_bytes(source)) as scratch:
            built = _build(family, source, name, version, scratch, progress)
            progress("trying it out")
            try_out(ServedModel(card=read_card(built), folder=built), settings)
            install(built, target)
    return ServedModel(card=read_card(target), folder=target)


def next_version(store: Path, name: str) -> str:
    """The whole number after all versions of ``name``, in the store and among the shipped models; ``1`` without any."""
    versions = [card.parent.name for shelf in (store, SHIPPED) for card in shelf.glob(f"{name}/*/{CARD_FILE}")]
    numbers = [int(found[0]) for version in versions if (found := re.match(r"\d+", version))]
    return str(max(numbers, default=0) + 1)


def try_out(model: ServedModel, settings: Settings) -> None:
    """Load every variant for the CPU with the task that will serve it, and run it alone and in a batch.

    Raises:
        ModelError: a file is not the one the card names, or a graph does not load, run or give what the card says.
    """
    trial = replace(settings, batching=TRIAL, runtime=replace(settings.runtime, provider="cpu"))
    for variant, described in model.card.variants.items():
        model.verify(variant)
        if "cpu" in described.providers:
            make_task(model, variant, trial, OnnxBackend(trial.runtime), lambda _what, _count: None).open()


def _build(family: Family, source: Source, name: str, version: str, scratch: Path, progress: Progress) -> Path:
    """The folder with the finished version, its card included."""
    built, rest = scratch / "built", scratch / "rest"
    built.mkdir()
    rest.mkdir()
    progress(f"building with the family {family.name}")
    card = family.build(source, Workbench(name=name, version=version, folder=built, scratch=rest, progress=progress))
    write_card(card, built)
    return built


def _check_name(what: str, value: str) -> None:
    if NAME.fullmatch(value) is None or (what == "version" and value in RESERVED):
        reserved = f", and neither {' nor '.join(RESERVED)}" if what == "version" else ""
        raise ModelError(
            f"{value!r} cannot be a model's {what}: lower case letters, digits, '.', '_' and '-', at most 64{reserved}."
        )


def _disk_bytes(source: Source) -> int:
    if source.path is None:
        return DISK_EXTRA
    folder = source.path if source.path.is_dir() else source.path.parent
    files = folder.glob("*.safetensors") if source.path.is_dir() else [source.path, *folder.glob("*.onnx*data*")]
    return DISK_FACTOR * sum(file.stat().st_size for file in files) + DISK_EXTRA
