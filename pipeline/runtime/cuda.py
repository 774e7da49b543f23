"""What the NVIDIA driver says of its first GPU, through the CUDA driver API, which needs nothing but the driver."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["free_gpu_bytes", "gpu_count", "gpu_name", "has_cudnn"]

NAME_BYTES = 256


def gpu_count() -> int:
    """NVIDIA GPUs, as the driver counts them (cuDeviceGetCount); 0 without a driver."""
    driver = _driver()
    count = ctypes.c_int(0)
    return count.value if driver is not None and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def gpu_name() -> str | None:
    """The first GPU's name (cuDeviceGetName), such as ``NVIDIA H100 80GB HBM3``; ``None`` without one."""
    driver = _driver()
    name = ctypes.create_string_buffer(NAME_BYTES)
    if driver is None or driver.cuDeviceGetName(name, NAME_BYTES, 0) != 0:
        return None
    return name.value.decode("utf-8", "replace")


def free_gpu_bytes() -> int | None:
    """Free memory of the first GPU (cuMemGetInfo); ``None`` without one, or when the driver does not say."""
    driver = _driver()
    if driver is None or gpu_count() == 0:
        return None
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    with _context(driver) as there:
        if not there or driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) != 0:
            return None
    return free.value


@cache
def has_cudnn() -> bool:
    """Whether cuDNN 9 is here, as NVIDIA's package or in the system: without it ONNX Runtime does not use a GPU."""
    if any(_is_installed(f"nvidia-cudnn-cu{cuda}") for cuda in (12, 13)):
        return True
    try:
        ctypes.CDLL("libcudnn.so.9")
    except OSError:
        return False
    return True


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


@cache
def _driver() -> Any | None:
    """The driver's library, ready for calls."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


@contextmanager
def _context(driver: Any) -> Iterator[bool]:
    """The GPU's primary context, which ONNX Runtime uses too, as this thread's; whether there is one."""
    context = ctypes.c_void_p()
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) != 0:
        yield False
        return
    try:
        pushed = driver.cuCtxPushCurrent_v2(context) == 0
        yield pushed
        if pushed:
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(0)
