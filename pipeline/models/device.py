"""Which device a worker runs on, found without loading ONNX Runtime."""

from __future__ import annotations

import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from msgspec import Struct

from pipeline.runtime.cores import available_cores
from pipeline.runtime.cuda import gpu_count, gpu_name, has_cudnn
from pipeline.settings import RuntimeSettings

__all__ = ["Device", "find_device"]

CPU_INFO = Path("/proc/cpuinfo")
GPU_RUNTIME, CPU_RUNTIME = "onnxruntime-gpu", "onnxruntime"


class Device(Struct, frozen=True, kw_only=True):
    """A device and what runs models on it.

    Attributes:
        name: the processor's or the GPU's.
        runtime: ONNX Runtime's version; what was measured with another one may be wrong.
    """

    provider: Literal["cpu", "cuda"]
    name: str
    cores: int
    runtime: str

    @property
    def key(self) -> str:
        """Names the device in a file's name: lower case letters, digits, dots and dashes."""
        cores = f" {self.cores} cores" if self.provider == "cpu" else ""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.name}{cores} ort {self.runtime}".lower()).strip("-")


def find_device(settings: RuntimeSettings) -> Device:
    """The device that ``settings.provider`` means: ``auto`` takes the GPU where there is one that can be used."""
    runtime, for_gpu = _runtime()
    wanted = settings.provider
    if wanted == "cuda" or (wanted == "auto" and for_gpu and gpu_count() > 0 and has_cudnn()):
        return Device(provider="cuda", name=gpu_name() or "gpu", cores=available_cores(), runtime=runtime)
    return Device(provider="cpu", name=_cpu_name(), cores=available_cores(), runtime=runtime)


@cache
def _runtime() -> tuple[str, bool]:
    """ONNX Runtime's version, and whether it is the build for GPUs."""
    for package in (GPU_RUNTIME, CPU_RUNTIME):
        try:
            return version(package), package == GPU_RUNTIME
        except PackageNotFoundError:
            continue
    return "none", False


@cache
def _cpu_name() -> str:
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()
