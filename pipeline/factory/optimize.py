"""``millrace models optimize``: from the FP32 graphs of a version to variants that measurement admits.

Each variant is made, run beside FP32 on samples that it was not calibrated on, and kept only if its figures are within
the gate and a record's result does not depend on who shares its batch. The card says what was measured either way.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from msgspec.structs import replace

from pipeline.factory.gates.figures import check_names
from pipeline.factory.gates.gate import Gate, broken_bounds, broken_invariance
from pipeline.factory.gates.gates import default_gate
from pipeline.factory.gates.measure import Bench, costs, figures_of
from pipeline.factory.gates.text import read_rows
from pipeline.factory.progress import Progress
from pipeline.factory.quantize.cache import cache_type
from pipeline.factory.quantize.calibration import MAIN, Observation, graph_paths, observe
from pipeline.factory.quantize.decoder_channels import decoder_feeds
from pipeline.factory.quantize.variants import Draft, Material, drafts, providers_of
from pipeline.factory.samples import Sample
from pipeline.factory.samples_default import calibration_sentences, prompt_samples
from pipeline.factory.trial import FULL, check_full, running, try_out
from pipeline.models.card import GraphFile, ModelCard, Rejected, Variant, VariantName
from pipeline.models.cardfile import sha256_of, write_card
from pipeline.models.install import install, locked, staging
from pipeline.models.store import ServedModel, read_model
from pipeline.settings import Settings

__all__ = ["optimize", "optimize_folder"]

FEW = 10
"""Fewer samples than this say next to nothing of a variant."""

Feeds = Mapping[str, npt.NDArray[Any]]


def optimize(
    model: ServedModel,
    *,
    variants: Sequence[VariantName],
    calibration: Sequence[Sample],
    evaluation: Sequence[Sample],
    gate: Gate | None = None,
    settings: Settings,
    progress: Progress = lambda _: None,
) -> ModelCard:
    """Make ``variants`` of a version and put it back into the store with those that are admitted, whole or not at all.

    Args:
        model: has the variant ``fp32``.
        variants: of :data:`pipeline.models.card.VARIANTS`.
        calibration: what the ranges of static INT8 are taken from.
        evaluation: what the variants are measured on; other samples than those.
        gate: bounds in the place of the task's own (:func:`pipeline.factory.gates.gates.default_gate`).
        settings: ``models.store`` says where.
        progress: told what is going on.

    Returns:
        the new card; a variant that failed is in its ``rejected``, with its figures and the reason.

    Raises:
        ModelError: there is no FP32, ``gate`` names a figure that nothing measures, a sample cannot be read, a variant
            is unknown or cannot be made, or there is no room or right to write. The store is then as it was.
    """
    store, card = settings.models.store_path, model.card
    check_full(model, "to make others from")
    size = sum(path.stat().st_size for path in graph_paths(model, FULL).values())
    with locked(store, card.name, progress), staging(store, card.name, (len(variants) + 1) * size) as scratch:
        model = read_model(model.spec, settings)  # as it is when its turn has come, with what others have made of it
        check_full(model, "to make others from")
        progress("trying FP32 out")
        try_out(model, settings, [FULL])
        built = scratch / "built"
        _link(model.folder, built, store)
        with running(model):
            finished = optimize_folder(
                replace(model, folder=built),
                variants=variants,
                calibration=calibration,
                evaluation=evaluation,
                gate=gate,
                settings=settings,
                progress=progress,
            )
        write_card(finished, built)
        install(built, store / card.name / card.version)
    return finished


def optimize_folder(
    model: ServedModel,
    *,
    variants: Sequence[VariantName],
    calibration: Sequence[Sample],
    evaluation: Sequence[Sample],
    gate: Gate | None = None,
    settings: Settings,
    progress: Progress = lambda _: None,
) -> ModelCard:
    """As :func:`optimize`, in a folder that is not in the store yet: writes the admitted graphs, returns the card."""
    answered = any(sample.answer is not None for sample in evaluation)
    if gate is not None:
        check_names(gate, model.card.task, answered=answered)
    bounds = gate or default_gate(model.card.task, answered=answered)
    model.verify(FULL)
    if len(evaluation) < FEW:
        progress(f"measuring on {len(evaluation)} samples, which says next to nothing: give 100 or more")
    progress("running FP32 on the samples")
    bench = Bench.of(model, evaluation, settings)
    feeds = _feeds(model, calibration, settings)
    card = _with_costs(model, bench, progress)
    material = Material(task=card.task, graphs=graph_paths(model, FULL), feeds=feeds, progress=progress)
    for variant in variants:
        progress(f"making {variant}")
        card = _made(variant, replace(model, card=card), material, bench, bounds, progress)
    return card


def _made(
    variant: VariantName, model: ServedModel, material: Material, bench: Bench, gate: Gate, progress: Progress
) -> ModelCard:
    """The card with the variant, admitted or rejected."""
    card, tries = model.card, list[Rejected]()
    for draft in drafts(variant, material):
        candidate = _written(variant, draft, model)
        measured = figures_of(candidate, variant, bench)
        reasons = _reasons(measured, gate, candidate.card.variants[variant])
        if not reasons:
            progress(f"{variant}: admitted")
            measured |= _of_tries(tries, gate) | costs(candidate, variant, bench, full=card.variants[FULL].measured)
            kept = replace(candidate.card.variants[variant], measured=measured)
            rejected = {name: why for name, why in card.rejected.items() if name != variant}
            return replace(card, variants=card.variants | {variant: kept}, rejected=rejected)
        progress(f"{variant}: {'; '.join(reasons)}")
        tries.append(Rejected(method=draft.method, reason="; ".join(reasons), measured=measured))
    _remove(variant, model)
    last = tries[-1]
    last = replace(last, measured=last.measured | _of_tries(tries[:-1], gate))
    others = {name: kept for name, kept in card.variants.items() if name != variant}
    return replace(card, variants=others, rejected=card.rejected | {variant: last})


def _reasons(measured: Mapping[str, float], gate: Gate, variant: Variant) -> list[str]:
    # A variant for GPUs is run here for its accuracy; its batches are another matter on its own device.
    moved = broken_invariance(measured) if "cpu" in variant.providers else []
    return broken_bounds(measured, gate) + moved


def _of_tries(tries: Sequence[Rejected], gate: Gate) -> dict[str, float]:
    """What the gate looks at, of each try that failed: ``try_1_mean_kl`` and so on."""
    names = [*gate.at_least, *gate.at_most]
    return {
        f"try_{number}_{name}": one.measured[name]
        for number, one in enumerate(tries, 1)
        for name in names
        if name in one.measured
    }


def _written(variant: VariantName, draft: Draft, model: ServedModel) -> ServedModel:
    """The model with the draft's graphs in its folder, and in its card."""
    files = {role: f"{variant}.onnx" if role == MAIN else f"{variant}.{role}.onnx" for role in draft.graphs}
    for role, graph in draft.graphs.items():
        target = model.folder / files[role]
        target.unlink(missing_ok=True)  # it may be a link to a file of the store
        onnx.save(graph, target)
    digests = {role: sha256_of(model.folder / file) for role, file in files.items()}
    made = Variant(
        file=files[MAIN],
        sha256=digests[MAIN],
        parts={role: GraphFile(file=file, sha256=digests[role]) for role, file in files.items() if role != MAIN},
        providers=providers_of(variant),
        method=draft.method,
        cache=cache_type(draft.graphs[MAIN]),
    )
    return replace(model, card=replace(model.card, variants=model.card.variants | {variant: made}))


def _remove(variant: VariantName, model: ServedModel) -> None:
    for file in model.folder.glob(f"{variant}.*onnx"):
        file.unlink()


def _with_costs(model: ServedModel, bench: Bench, progress: Progress) -> ModelCard:
    progress("measuring FP32")
    card = model.card
    full = card.variants[FULL]
    figures = {} if card.text is not None else figures_of(model, FULL, bench)  # a decoder against itself tells nothing
    # Nothing of an earlier time is kept: it was measured on other samples.
    measured = figures | costs(model, FULL, bench)
    return replace(card, variants=card.variants | {FULL: replace(full, measured=measured)})


def _feeds(model: ServedModel, samples: Sequence[Sample], settings: Settings) -> dict[str, Sequence[Feeds]]:
    """What the samples feed each graph; of image-to-text the vision graph alone."""
    if model.card.task == "text-generation" and model.card.text is not None:
        # Ours too: scales that are fixed on texts of one kind ruin others, and say nothing of it on their own kind.
        ours = prompt_samples(model, model.card.text, calibration_sentences())
        parts = [samples] if list(samples) == ours else [samples, ours]
        rows = [read_rows(model, part, settings) for part in parts if part]
        return {MAIN: [feed for one in rows for feed in decoder_feeds(one.ids, one.lengths, model.card.text)]}
    seen: list[Observation] = observe(model, FULL, samples, settings)
    roles = {role for one in seen for role in one.feeds}
    return {role: [one.feeds[role] for one in seen if role in one.feeds] for role in roles}


def _link(source: Path, target: Path, store: Path) -> None:
    """A copy of a version's folder, whose graphs take no room where they are in the store too.

    Only graphs are linked, for they are replaced and never written over; a card that was written through a link would
    change the version that is being served. Weights beside a graph are copied: onnx reads them from no linked file.
    """
    target.mkdir()
    for file in source.iterdir():
        if file.suffix == ".onnx" and source.resolve().is_relative_to(store.resolve()):
            os.link(file, target / file.name)
        elif file.is_file():
            shutil.copyfile(file, target / file.name)
