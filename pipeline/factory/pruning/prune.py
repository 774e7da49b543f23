"""Pruning: a new version of a model with weights, or whole neurons, taken out, and what that cost and brought.

``magnitude`` sets the smallest weights of all layers to zero (torch.nn.utils.prune, global L1): the file compresses
better, but ONNX Runtime multiplies by zeros as by anything, so it is no faster. ``structured`` removes whole hidden
neurons and inner channels, so the products are smaller and faster. Neither trains: the accuracy lost is in the card.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import numpy_helper

from pipeline.errors import ModelError
from pipeline.factory.exports.export import import_framework
from pipeline.factory.gates.measure import Bench, costs, figures_of
from pipeline.factory.progress import Progress
from pipeline.factory.pruning.structured import remove_neurons
from pipeline.factory.quantize.calibration import MAIN, graph_paths
from pipeline.factory.quantize.plan import find_layers
from pipeline.factory.quantize.static import simplified
from pipeline.factory.samples import Sample
from pipeline.factory.trial import FULL, check_full, running, try_out
from pipeline.factory.versions import new_version
from pipeline.models.card import GraphFile, ModelCard, Variant, VariantName
from pipeline.models.cardfile import sha256_of, write_card
from pipeline.models.install import install, locked, staging
from pipeline.models.store import ServedModel, read_model
from pipeline.settings import Settings

__all__ = ["Kind", "prune", "zero_smallest"]

Kind = Literal["magnitude", "structured"]
PRUNED: VariantName = "fp32-pruned"
METHODS: dict[Kind, str] = {
    "magnitude": "the smallest {percent:.0f} % of the weights of all layers set to zero: no faster, for ONNX Runtime "
    "multiplies zeros too",
    "structured": "{percent:.0f} % of the hidden neurons and inner channels removed: {speedup:.2f} times the speed at "
    "batch 8",
}


def prune(
    model: ServedModel,
    *,
    kind: Kind,
    amount: float,
    version: str | None = None,
    evaluation: Sequence[Sample],
    settings: Settings,
    progress: Progress = lambda _: None,
) -> ServedModel:
    """Put a pruned FP32 version beside ``model`` in the store; ``optimize`` makes its other variants.

    Args:
        model: has the variant ``fp32``.
        kind: what is taken out.
        amount: the share of it, between 0 and 1.
        version: of the new one; ``None`` takes the next free whole number.
        evaluation: what both are run on.
        settings: ``models.store`` says where.
        progress: told what is going on.

    Returns:
        the new version. Its card has ``sparsity`` (the share of the layers' weights that is gone), the task's figures
        against the version it was made from, and the speed before and after.

    Raises:
        ModelError: there is no FP32, ``amount`` is out of its bounds, the version is there already, nothing in the
            graph can be removed, or torch is not installed. The store is then as it was.
    """
    card, store = model.card, settings.models.store_path
    if not 0 < amount < 1:
        raise ModelError(f"pruning {model.spec}: the amount is {amount}, it must be between 0 and 1.")
    check_full(model, "to prune")
    size = sum(path.stat().st_size for path in graph_paths(model, FULL).values())
    with locked(store, card.name, progress), staging(store, card.name, 3 * size) as scratch:
        version = new_version(store, card.name, version)
        model = read_model(model.spec, settings)  # as it is when its turn has come
        check_full(model, "to prune")
        progress("trying FP32 out")
        try_out(model, settings, [FULL])
        both = scratch / "both"
        shutil.copytree(model.folder, both)
        progress(f"pruning ({kind})")
        pair = _with_pruned(replace(model, folder=both), kind, amount)
        progress("measuring")
        with running(model):
            measured = _measured(pair, Bench.of(pair, evaluation, settings))
        built = _finished(pair, scratch / "built", version, kind, amount, measured)
        install(built.folder, store / card.name / version)
    return replace(built, folder=store / card.name / version)


def zero_smallest(model: onnx.ModelProto, amount: float) -> onnx.ModelProto:
    """A copy in which the ``amount`` of the layers' weights that are nearest to zero are zero.

    Raises:
        ModelError: torch is not installed.
    """
    torch, torch_prune = import_framework("torch"), import_framework("torch.nn.utils.prune")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = sorted({layer.weight for layer in find_layers(copy)})
    tensors = {item.name: item for item in copy.graph.initializer if item.name in names}
    modules = {name: torch.nn.Module() for name in names}
    for name, module in modules.items():
        module.weight = torch.nn.Parameter(torch.from_numpy(numpy_helper.to_array(tensors[name]).copy()))
    chosen = [(module, "weight") for module in modules.values()]
    torch_prune.global_unstructured(chosen, torch_prune.L1Unstructured, amount=amount)
    for name, module in modules.items():
        tensors[name].CopyFrom(numpy_helper.from_array(module.weight.detach().numpy(), name))
    return copy


def _load(path: Path) -> onnx.ModelProto:
    model = onnx.load(path)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def _with_pruned(model: ServedModel, kind: Kind, amount: float) -> ServedModel:
    """The model with the pruned graphs beside FP32's, as one more variant."""
    makers: dict[Kind, Callable[[Path], onnx.ModelProto]] = {
        "magnitude": lambda path: zero_smallest(_load(path), amount),
        "structured": lambda path: remove_neurons(simplified(path), amount),
    }
    files: dict[str, GraphFile] = {}
    for role, path in graph_paths(model, FULL).items():
        file = path.name.replace(FULL, PRUNED, 1)
        onnx.save(makers[kind](path), model.folder / file)
        files[role] = GraphFile(file=file, sha256=sha256_of(model.folder / file))
    main = files.pop(MAIN)
    pruned = Variant(file=main.file, sha256=main.sha256, parts=files)
    return replace(model, card=replace(model.card, variants={FULL: model.card.variants[FULL], PRUNED: pruned}))


def _measured(pair: ServedModel, bench: Bench) -> dict[str, float]:
    before = costs(pair, FULL, bench)
    after = costs(pair, PRUNED, bench, full=before)
    counts = [_nonzero(pair, variant) for variant in (FULL, PRUNED)]
    return {
        "sparsity": round(1 - counts[1] / counts[0], 4),
        **figures_of(pair, PRUNED, bench),
        **{f"before_{name}": value for name, value in before.items()},
        **after,
    }


def _nonzero(model: ServedModel, variant: VariantName) -> int:
    """How many weights of all layers are not zero."""
    total = 0
    for path in graph_paths(model, variant).values():
        graph = _load(path)
        tensors: dict[str, Any] = {item.name: item for item in graph.graph.initializer}
        names = {layer.weight for layer in find_layers(graph)}
        total += sum(int(np.count_nonzero(numpy_helper.to_array(tensors[name]))) for name in names)
    return total


def _finished(
    pair: ServedModel, folder: Path, version: str, kind: Kind, amount: float, measured: dict[str, float]
) -> ServedModel:
    """The new version's folder: the pruned graphs under FP32's names, and the files beside them."""
    folder.mkdir()
    pruned = pair.card.variants[PRUNED]
    for name in pair.card.files:
        shutil.copyfile(pair.folder / name, folder / name)
    names = {pruned.file: f"{FULL}.onnx"} | {part.file: f"{FULL}.{role}.onnx" for role, part in pruned.parts.items()}
    for old, new in names.items():
        (pair.folder / old).rename(folder / new)
    method = METHODS[kind].format(percent=100 * amount, speedup=measured.get("speedup_batch_8", 1.0))
    parts = {role: replace(part, file=names[part.file]) for role, part in pruned.parts.items()}
    variant = replace(pruned, file=names[pruned.file], parts=parts, method=method, measured=measured)
    source = f"{pair.card.name}@{pair.card.version}, pruned"
    card: ModelCard = replace(pair.card, version=version, source=source, variants={FULL: variant}, rejected={})
    write_card(card, folder)
    return ServedModel(card=card, folder=folder)
