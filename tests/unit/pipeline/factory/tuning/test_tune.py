from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engine import Engine
from pipeline.errors import ModelError
from pipeline.factory.samples import Sample
from pipeline.factory.tuning.tune import thread_counts, tune
from pipeline.models.device import Device, find_device
from pipeline.models.profile import read_profile
from pipeline.models.store import ServedModel, find_model
from pipeline.runtime.fakes import (
    FakeBackend,
    FakeDecoder,
    FakeSession,
    fake_classifier,
    fake_generator,
    fake_reader,
    fake_text_classifier,
    fake_zero_shot,
)
from pipeline.runtime.session import CacheLayout, Floats
from pipeline.settings import RuntimeSettings, Settings
from tests.model_store import put_version
from tests.unit.pipeline.helpers import png, settings

QUICK_S = 0.001


class Slow(FakeSession):
    """Takes a time for each run and for each record in it, by a clock that stands still otherwise."""

    now = 0.0

    def __init__(self, run_s: float, record_s: float) -> None:
        super().__init__(10)
        self._run_s, self._record_s = run_s, record_s

    def run(self, feeds: Mapping[str, Any]) -> Mapping[str, Floats]:
        Slow.now += self._run_s + self._record_s * len(feeds["pixels"])
        return super().run(feeds)


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure by the clock of the slow sessions."""
    clock = SimpleNamespace(perf_counter=lambda: Slow.now)
    monkeypatch.setattr("pipeline.factory.tuning.throughput.time", clock)


class Timed(FakeBackend):
    """Sessions whose speed depends on the variant and the threads; knows which were opened."""

    def __init__(self, runtime: RuntimeSettings, opened: list[tuple[str, int]]) -> None:
        super().__init__()
        self._threads, self._opened = runtime.threads, opened

    def open_session(self, path: Path) -> FakeSession:
        self._opened.append((path.stem, self._threads))
        # Two threads help float32 alone, and a batch of more than 4 helps nobody.
        run_s = 0.004 if path.stem == "int8" else 0.006 / self._threads
        return Slow(run_s, run_s / 4)

    def open_decoder(self, path: Path, layout: CacheLayout) -> FakeDecoder:
        self._opened.append((path.stem, self._threads))
        return super().open_decoder(path, layout)


@pytest.fixture
def configured(tmp_path: Path) -> Settings:
    return settings(models={"store": str(tmp_path)}, batching={"max_batch_size": 8, "max_slots": 4, "max_length": 64})


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(provider="cpu", name="cpu", cores=2, runtime="1")
    for module in ("factory.tuning.tune", "models.store"):
        monkeypatch.setattr(f"pipeline.{module}.find_device", lambda _: device)


@pytest.mark.usefixtures("slow_clock")
def test_the_fastest_variant_and_its_threads_are_found_kept_and_served(tmp_path: Path, configured: Settings) -> None:
    put_version(tmp_path, "1", names=("int8", "fp32"))
    opened: list[tuple[str, int]] = []
    model = find_model("toy", configured)
    assert model.choice(configured).variant == "int8"
    tuning = tune(model, configured, seconds=QUICK_S, open_backend=lambda runtime: Timed(runtime, opened))
    assert opened == [("int8", 1), ("int8", 2), ("fp32", 1), ("fp32", 2)]
    assert [(p.variant, p.threads, p.batch_size) for p in tuning.profile.points[:5]] == [
        ("int8", 1, 1), ("int8", 1, 2), ("int8", 1, 4), ("int8", 1, 8), ("int8", 2, 1),
    ]  # fmt: skip
    assert (tuning.choice.variant, tuning.choice.threads) == ("fp32", 2)
    assert read_profile(tmp_path, model.card, tuning.profile.device) == tuning.profile
    assert model.choice(configured) == tuning.choice
    engine = Engine(configured, [model], backend=FakeBackend())
    (lane,) = engine._lanes.serving
    assert (lane.variant, lane._settings.runtime.threads) == ("fp32", 2)


@pytest.mark.usefixtures("slow_clock")
def test_the_threads_of_the_settings_are_the_only_ones_measured(tmp_path: Path) -> None:
    put_version(tmp_path, "1", names=("int8", "fp32"))
    configured = settings(models={"store": str(tmp_path)}, batching={"max_batch_size": 1}, runtime={"threads": 3})
    opened: list[tuple[str, int]] = []
    tune(
        find_model("toy", configured),
        configured,
        seconds=QUICK_S,
        open_backend=lambda runtime: Timed(runtime, opened),
    )
    assert opened == [("int8", 3), ("fp32", 3)]


@pytest.mark.parametrize(("cores", "expected"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_threads_are_powers_of_two_and_every_core(cores: int, expected: tuple[int, ...]) -> None:
    device = Device(provider="cpu", name="", cores=cores, runtime="")
    assert thread_counts(RuntimeSettings(), device) == expected
    assert thread_counts(RuntimeSettings(), Device(provider="cuda", name="", cores=cores, runtime="")) == (cores,)


@pytest.mark.parametrize(
    ("make", "samples"),
    [
        (fake_classifier, [Sample(image=png(3)), Sample(image=png(4))]),
        (fake_text_classifier, [Sample(text="abc")]),
        (fake_zero_shot, []),
        (fake_zero_shot, [Sample(image=png(3))]),
        (fake_generator, [Sample(text="abc")]),
        (fake_generator, []),
        (fake_reader, []),
    ],
)
def test_a_model_of_any_task_is_measured_with_samples_and_without(
    tmp_path: Path, configured: Settings, make: Callable[[Path], ServedModel], samples: list[Sample]
) -> None:
    put_version(tmp_path, "1", make=make)
    model = find_model("toy", configured)
    tuning = tune(model, configured, samples=samples, seconds=QUICK_S, open_backend=lambda _: FakeBackend())
    sizes = [1, 2, 4] if model.card.text else [1, 2, 4, 8]
    assert [point.batch_size for point in tuning.profile.points if point.threads == 1] == sizes
    if model.card.text:
        assert tuning.profile.points[0].prefill_per_second > 0


@pytest.mark.usefixtures("slow_clock")
def test_a_variant_that_cannot_be_measured_is_skipped_with_its_reason(tmp_path: Path, configured: Settings) -> None:
    put_version(tmp_path, "1", names=("int8", "fp32"))
    model = find_model("toy", configured)
    (model.folder / "fp32.onnx").write_bytes(b"damaged")
    tuning = tune(model, configured, seconds=QUICK_S, open_backend=lambda runtime: Timed(runtime, []))
    assert "fp32.onnx is damaged" in tuning.skipped["fp32"]
    assert set(tuning.profile.digests) == {"int8"}


def test_when_nothing_can_be_measured_it_is_an_error_and_no_profile(tmp_path: Path, configured: Settings) -> None:
    put_version(tmp_path, "1")
    model = find_model("toy", configured)
    with pytest.raises(ModelError, match=r"nothing could be measured: .*told to fail"):
        tune(model, configured, seconds=QUICK_S, open_backend=lambda _: FakeBackend(fault=lambda _: True))
    assert read_profile(tmp_path, model.card, find_device(configured.runtime).key) is None
    assert not (tmp_path / "toy" / "profiles").exists()
