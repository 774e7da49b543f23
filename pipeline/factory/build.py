"""``millrace models build``: a source in, an FP32 version in the store, tried out before anybody can serve it."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ModelError
from pipeline.factory.chats import check_chats
from pipeline.factory.families import find_family
from pipeline.factory.family import Family, Source, Workbench
from pipeline.factory.progress import Progress
from pipeline.factory.trial import try_out
from pipeline.factory.versions import check_name, new_version
from pipeline.models.cardfile import read_card, write_card
from pipeline.models.install import install, locked, staging
from pipeline.models.store import ServedModel
from pipeline.settings import Settings

__all__ = ["build"]

MEGABYTE = 1_000_000
# The weights in FP32 (twice the file where that is bfloat16), and once more while the graph is written.
DISK_FACTOR, DISK_EXTRA = 3, 50 * MEGABYTE


def build(
    source: Source,
    settings: Settings,
    *,
    name: str,
    version: str | None = None,
    force: bool = False,
    progress: Progress = lambda _: None,
    warn: Progress = lambda _: None,
) -> ServedModel:
    """Make a version of ``name`` in the store from ``source``; promote it if it is the first.

    Args:
        source: found by :func:`pipeline.factory.sources.source.resolve_source`.
        settings: ``models.store`` says where.
        name: in the store.
        version: ``None`` takes the next free whole number.
        force: replace the version if it is there.
        progress: told what is going on.
        warn: told what the user should know of the model that is built.

    Raises:
        ModelError: the version is there already, no family builds the source, the graphs do not do what the card says,
            the chat template takes no chat, or there is no room or right to write. The store is then as it was.
    """
    family, store = find_family(source), settings.models.store_path
    check_name("name", name)
    with locked(store, name, progress):
        version = new_version(store, name, version, force=force)
        target = store / name / version
        with staging(store, name, _disk_bytes(source)) as scratch:
            built = _build(family, source, name, version, scratch, progress)
            progress("trying it out")
            model = ServedModel(card=read_card(built), folder=built)
            check_chats(model, warn)
            try_out(model, settings)
            install(built, target)
    return ServedModel(card=read_card(target), folder=target)


def _build(family: Family, source: Source, name: str, version: str, scratch: Path, progress: Progress) -> Path:
    """The folder with the finished version, its card included."""
    built, rest = scratch / "built", scratch / "rest"
    built.mkdir()
    rest.mkdir()
    progress(f"building with the family {family.name}")
    bench = Workbench(name=name, version=version, folder=built, scratch=rest, progress=progress)
    try:
        write_card(family.build(source, bench), built)
    except (ModelError, OSError):
        raise
    except Exception as error:  # files that contradict themselves fail wherever the first number of theirs is used
        raise ModelError(
            f"{source.origin}: its files contradict themselves, or are not those of the family {family.name}: "
            f"{type(error).__name__}: {error}. Check config.json, or what the file was exported with."
        ) from error
    return built


def _disk_bytes(source: Source) -> int:
    if source.path is None:
        return DISK_EXTRA
    folder = source.path if source.path.is_dir() else source.path.parent
    files = folder.glob("*.safetensors") if source.path.is_dir() else [source.path, *folder.glob("*.onnx*data*")]
    return DISK_FACTOR * sum(file.stat().st_size for file in files) + DISK_EXTRA
