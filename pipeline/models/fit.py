"""Does a model fit the device? Asked before it is loaded, so that the answer is a sentence and not the kernel's kill.

What is needed is estimated from the card and the sizes of its files:

- On the CPU, ONNX Runtime 1.31 holds more than the file: 1.3 times 200 MB of float32, 2.3 times 57 MB of 8-bit weights,
  which it packs anew (measured, as the most while it loads; 1.1 and 1.5 times when the weights are in a file beside the
  graph). Counted here are 1.5 and 2.5, and 1.5 for weights beside the graph.
- On a GPU the weights are there once.
- The KV cache is 2 x layers x (slots + 1) x kv_heads x max_length x head_size numbers, of 4 bytes in float32, 2 in
  float16 and 1 in int8; the slot more is the probes'. It counts in full, though a CPU's pages are taken only when used.
- And a margin for what a run needs: activations, libraries, the CUDA context.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.models.card import CacheType, ModelCard, VariantName, cache_of, precision_of
from pipeline.models.device import find_device
from pipeline.runtime.cuda import free_gpu_bytes
from pipeline.runtime.memory import available_bytes
from pipeline.settings import BatchingSettings, RuntimeSettings

__all__ = ["Need", "check_fit", "estimate_need", "free_bytes", "runs_on"]

MIB = 1024 * 1024
NUMBER_BYTES: dict[CacheType, int] = {"float32": 4, "float16": 2, "int8": 1}
PLAIN, PACKED = 1.5, 2.5
CPU_MARGIN_BYTES, GPU_MARGIN_BYTES = 64 * MIB, 512 * MIB


class Need(Struct, frozen=True, kw_only=True):
    """What a model takes of a device's memory, in bytes.

    Attributes:
        graphs: the weights, as files.
        cache: the KV cache; 0 without one.
        total: the most at any time, margin included.
    """

    graphs: int
    cache: int
    total: int


def estimate_need(
    card: ModelCard, folder: Path, variant: VariantName, provider: Literal["cpu", "cuda"], batching: BatchingSettings
) -> Need:
    """What ``variant`` would take; a file that is not there counts nothing, for loading it will say so."""
    chosen = card.variants[variant]
    graphs = chosen.digests.keys() - chosen.weight_files
    inside, outside = (sum(_size(folder / name) for name in names) for names in (graphs, chosen.weight_files))
    cache = _cache_bytes(card, variant, batching)
    if provider == "cuda":
        total = inside + outside + cache + GPU_MARGIN_BYTES
    else:
        held = (PACKED if precision_of(variant) == "int8" else PLAIN) * inside + PLAIN * outside
        total = int(held) + cache + CPU_MARGIN_BYTES
    return Need(graphs=inside + outside, cache=cache, total=total)


def runs_on(card: ModelCard, variant: VariantName, settings: RuntimeSettings) -> Literal["cpu", "cuda"]:
    """Where ``variant`` goes: a decoder stays off the GPU unless its cache is float16."""
    on_cpu = card.text is not None and cache_of(card, variant) != "float16"
    return "cpu" if on_cpu else find_device(settings).provider


def free_bytes(provider: Literal["cpu", "cuda"]) -> int | None:
    """What the device has left; ``None`` when nobody says."""
    return free_gpu_bytes() if provider == "cuda" else available_bytes()


def check_fit(
    card: ModelCard,
    folder: Path,
    variant: VariantName,
    provider: Literal["cpu", "cuda"],
    batching: BatchingSettings,
    free: int | None,
) -> None:
    """Raise ModelError when ``variant`` needs more than the ``free`` bytes; ``None`` means that nobody knows."""
    need = estimate_need(card, folder, variant, provider, batching)
    if free is None or need.total <= free:
        return
    slots = f", {_mib(need.cache)} for the KV cache of {batching.max_slots} slots" if need.cache else ""
    others = [name for name, other in card.variants.items() if name != variant and provider in other.providers]
    way = "Lower batching.max_slots or batching.max_length" if need.cache else "Stop what else uses the memory"
    raise ModelError(
        f"model {card.name}@{card.version} {variant} does not fit the {provider}: it needs about {_mib(need.total)} "
        f"({_mib(need.graphs)} of graphs{slots}, and room to load and run), and {_mib(free)} are free. {way}"
        f"{', or set runtime.precision for another variant: ' + ', '.join(others) if others else ''}."
    )


def _cache_bytes(card: ModelCard, variant: VariantName, batching: BatchingSettings) -> int:
    text = card.text
    if text is None:
        return 0
    numbers = 2 * text.layers * (batching.max_slots + 1) * text.kv_heads * text.head_size
    return numbers * min(batching.max_length, text.max_length) * NUMBER_BYTES[cache_of(card, variant)]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _mib(count: int) -> str:
    return f"{count / MIB:,.0f} MiB"
