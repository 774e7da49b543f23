"""``millrace models tune``: which variant, threads and batch size are fastest on this device, measured by serving.

What is timed is the code that serves: the task prepares requests and runs them on a session of its own. Each figure is
from the fastest run: what made others slower was something else. (On a machine with five times as much to do as it has
cores, runs of more than 2 ms took four times as long in the median, and shorter ones did not.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.progress import Progress
from pipeline.factory.samples import Sample
from pipeline.factory.tuning.decoding import measure_decoding
from pipeline.factory.tuning.throughput import Subject, Throughput, measure_batches
from pipeline.models.card import VariantName
from pipeline.models.choice import Choice, choose
from pipeline.models.device import Device, find_device
from pipeline.models.fit import check_fit, free_bytes, runs_on
from pipeline.models.profile import Point, Profile, write_profile
from pipeline.models.store import ServedModel
from pipeline.runtime.session import Backend
from pipeline.settings import RuntimeSettings, Settings

__all__ = ["BATCH_SIZES", "Tuning", "thread_counts", "tune"]

BATCH_SIZES = (1, 2, 4, 8, 16, 32)


class Tuning(Struct, frozen=True, kw_only=True):
    """What tuning has found.

    Attributes:
        profile: the measurements; they are in the store.
        choice: how the model runs from now on.
        skipped: variants that could not be measured, and why.
    """

    profile: Profile
    choice: Choice
    skipped: dict[VariantName, str]


def tune(
    model: ServedModel,
    settings: Settings,
    *,
    samples: Sequence[Sample] = (),
    seconds: float = 0.3,
    progress: Progress = lambda _: None,
    open_backend: Callable[[RuntimeSettings], Backend] | None = None,
) -> Tuning:
    """Measure every variant of ``model`` that is meant for this device, and keep what was measured.

    Args:
        model: what to measure.
        settings: the bounds of batches and slots; explicit threads are the only ones measured.
        samples: what to measure it on; blank inputs without.
        seconds: how long each figure is measured, at least.
        progress: told what is going on.
        open_backend: ONNX Runtime by default.

    Raises:
        ModelError: a file is damaged, no variant can be measured, or the profile cannot be written.
    """
    device = find_device(settings.runtime)
    bench = _Bench(model, settings, samples, seconds, open_backend or _onnx_backend)
    points: list[Point] = []
    skipped: dict[VariantName, str] = {}
    for variant in _variants(model, device):
        try:
            points += bench.measure(variant, thread_counts(settings.runtime, device), progress)
        except ModelError as error:
            skipped[variant] = str(error)
    if not points:
        raise ModelError(f"model {model.spec}: nothing could be measured: {'; '.join(skipped.values())}")
    digests = {point.variant: model.card.variants[point.variant].digest for point in points}
    profile = Profile(model=model.spec, device=device.key, digests=digests, points=tuple(points))
    try:
        write_profile(settings.models.store_path, model.card, profile)
    except OSError as error:
        raise ModelError(f"the profile cannot be kept in {settings.models.store_path}: {error.strerror}.") from error
    choice = choose(
        model.card,
        wanted=settings.runtime.precision,
        provider=device.provider,
        profile=profile,
        threads=settings.runtime.threads,
        max_batch_size=bench.bound,
    )
    return Tuning(profile=profile, choice=choice, skipped=skipped)


def thread_counts(settings: RuntimeSettings, device: Device) -> tuple[int, ...]:
    """The threads to try: those that the settings insist on, or powers of two up to every core, and every core."""
    if settings.threads:
        return (settings.threads,)
    if device.provider == "cuda":
        return (device.cores,)
    powers = {2**power for power in range(device.cores.bit_length()) if 2**power <= device.cores}
    return tuple(sorted(powers | {device.cores}))


def _variants(model: ServedModel, device: Device) -> list[VariantName]:
    return [name for name, variant in model.card.variants.items() if device.provider in variant.providers]


class _Bench:
    """Measures the variants of one model under one set of settings.

    Attributes:
        bound: the largest batch, or the most slots, that the settings allow.
    """

    def __init__(
        self,
        model: ServedModel,
        settings: Settings,
        samples: Sequence[Sample],
        seconds: float,
        open_backend: Callable[[RuntimeSettings], Backend],
    ) -> None:
        self._model, self._settings, self._samples, self._seconds = model, settings, samples, seconds
        self._open_backend = open_backend
        self._decodes = model.card.text is not None
        self.bound = settings.batching.max_slots if self._decodes else settings.batching.max_batch_size
        self._sizes = [size for size in BATCH_SIZES if size <= self.bound]

    def measure(self, variant: VariantName, threads: Sequence[int], progress: Progress) -> list[Point]:
        """Every batch size with every number of threads. Raises ModelError."""
        card, batching = self._model.card, self._settings.batching
        self._model.verify(variant)
        points = []
        for count in threads:
            progress(f"{variant} with {count} threads")
            provider = runs_on(card, variant, self._settings.runtime)
            check_fit(card, self._model.folder, variant, provider, batching, free_bytes(provider))
            points += [_point(variant, count, speed) for speed in self._speeds(variant, count)]
        return points

    def _speeds(self, variant: VariantName, threads: int) -> list[Throughput]:
        settings = replace(self._settings, runtime=replace(self._settings.runtime, threads=threads))
        subject = Subject(
            model=self._model,
            variant=variant,
            settings=settings,
            backend=self._open_backend(settings.runtime),
            samples=self._samples,
            seconds=self._seconds,
        )
        return measure_decoding(subject, self._sizes) if self._decodes else measure_batches(subject, self._sizes)


def _point(variant: VariantName, threads: int, speed: Throughput) -> Point:
    return Point(
        variant=variant,
        threads=threads,
        batch_size=speed.batch_size,
        per_second=round(speed.per_second, 2),
        prefill_per_second=round(speed.prefill_per_second, 2),
    )


def _onnx_backend(settings: RuntimeSettings) -> Backend:
    from pipeline.runtime.onnx import OnnxBackend

    return OnnxBackend(settings)
