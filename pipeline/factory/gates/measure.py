"""The figures of one variant: how far it is from FP32, whether company changes it, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from pipeline.factory.gates.gate import INVARIANT
from pipeline.factory.gates.gates import compare
from pipeline.factory.gates.invariance import graph_difference, largest_difference
from pipeline.factory.gates.labels import check_answers
from pipeline.factory.gates.speed import SPEEDUP, decoder_milliseconds, memory_megabytes, milliseconds
from pipeline.factory.gates.text import Reading, compare_text_models, open_decoder
from pipeline.factory.quantize.calibration import MAIN, Observation, cpu, graph_paths, observe
from pipeline.factory.samples import Sample
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from pipeline.settings import Settings

__all__ = ["Bench", "costs", "figures_of"]

SLOTS = 32


class Bench(Struct, frozen=True, kw_only=True):
    """What variants are measured on, and what FP32 makes of it."""

    samples: Sequence[Sample]
    full: Sequence[Observation]
    reading: Reading | None
    settings: Settings

    @staticmethod
    def of(model: ServedModel, samples: Sequence[Sample], settings: Settings) -> Bench:
        """Run FP32. Raises ModelError for a sample that the model cannot read, or whose label it does not have."""
        check_answers(model, samples)
        full = [] if model.card.task == "text-generation" else observe(model, "fp32", samples, settings)
        reading = None if model.card.text is None else Reading.of(model, samples, settings, full)
        return Bench(samples=samples, full=full, reading=reading, settings=settings)


def figures_of(model: ServedModel, variant: VariantName, bench: Bench) -> dict[str, float]:
    """What the gate looks at, as :mod:`pipeline.factory.gates.figures` names it. Raises ModelError."""
    if model.card.task == "text-generation" and bench.reading is not None:
        return compare_text_models(model, variant, bench.reading, bench.settings)
    ours = bench.full if variant == "fp32" else observe(model, variant, bench.samples, bench.settings)
    if bench.reading is not None:
        figures = compare_text_models(model, variant, bench.reading, bench.settings, (bench.full, ours))
        vision = cpu(bench.settings).open_session(graph_paths(model, variant)["vision"])
        moved = graph_difference(vision, [one.feeds["vision"] for one in ours])
        return figures | {INVARIANT: max(figures[INVARIANT], moved)}
    moved = largest_difference(model, variant, bench.samples, bench.settings)
    return compare(model.card.task, bench.full, ours, bench.samples) | {INVARIANT: moved}


def costs(
    model: ServedModel, variant: VariantName, bench: Bench, full: Mapping[str, float] | None = None
) -> dict[str, float]:
    """``file_mb``, ``memory_mb`` and milliseconds by batch; with FP32's in ``full``, how many times faster too.

    Times are the CPU's here, whatever the variant is meant for, while others may use the machine.
    """
    paths = graph_paths(model, variant)
    figures = {"file_mb": round(sum(path.stat().st_size for path in paths.values()) / 1e6, 2)}
    role = MAIN if not bench.full or MAIN in bench.full[0].feeds else next(iter(bench.full[0].feeds))
    feeds = None
    if model.card.text is not None:
        figures |= decoder_milliseconds(open_decoder(model, variant, bench.settings, SLOTS), SLOTS)
        role = MAIN
    else:
        feeds = bench.full[0].feeds[role]
        figures |= milliseconds(cpu(bench.settings).open_session(paths[role]), feeds)
    if (memory := memory_megabytes(paths[role], feeds)) is not None:
        figures["memory_mb"] = round(memory, 1)
    for name, before in (full or {}).items():
        if name.startswith("ms_batch_") and figures.get(name):
            figures[SPEEDUP + name.removeprefix("ms_batch_")] = round(before / figures[name], 2)
    return figures
