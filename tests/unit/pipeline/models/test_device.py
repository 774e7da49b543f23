from __future__ import annotations

import re

import pytest

from pipeline.models import device
from pipeline.models.device import Device, find_device
from pipeline.settings import RuntimeSettings


def test_the_key_says_everything_that_changes_speed_and_can_be_a_file_s_name() -> None:
    cpu = Device(provider="cpu", name="AMD EPYC 9654 (Genoa)", cores=8, runtime="1.31.0")
    assert cpu.key == "amd-epyc-9654-genoa-8-cores-ort-1.31.0"
    gpu = Device(provider="cuda", name="NVIDIA H100 80GB HBM3", cores=8, runtime="1.31.0")
    assert gpu.key == "nvidia-h100-80gb-hbm3-ort-1.31.0"


def test_this_machine_has_a_key() -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]+-cores-ort-1\.\d+\.\d+", find_device(RuntimeSettings(provider="cpu")).key)


@pytest.mark.parametrize(
    ("wanted", "gpus", "for_gpu", "cudnn", "provider"),
    [
        ("auto", 1, True, True, "cuda"),
        ("auto", 1, False, True, "cpu"),
        ("auto", 1, True, False, "cpu"),
        ("auto", 0, True, True, "cpu"),
        ("cpu", 1, True, True, "cpu"),
        ("cuda", 0, True, False, "cuda"),
    ],
)
def test_auto_takes_a_gpu_that_can_be_used(
    monkeypatch: pytest.MonkeyPatch, wanted: str, gpus: int, for_gpu: bool, cudnn: bool, provider: str
) -> None:
    monkeypatch.setattr(device, "gpu_count", lambda: gpus)
    monkeypatch.setattr(device, "gpu_name", lambda: "NVIDIA H100" if gpus else None)
    monkeypatch.setattr(device, "has_cudnn", lambda: cudnn)
    monkeypatch.setattr(device, "_runtime", lambda: ("1.31.0", for_gpu))
    assert find_device(RuntimeSettings(provider=wanted)).provider == provider  # type: ignore[arg-type]
