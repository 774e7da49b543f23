"""The memory of a KV cache: one buffer for each layer's keys and values, seen as ranges of slots by address."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.runtime.session import CacheLayout

__all__ = ["DeviceBuffer", "HostBuffer", "KvCache"]


class DeviceBuffer(Protocol):
    """Memory [slots, ...] on a device."""

    @property
    def address(self) -> int:
        """Where it begins."""

    def move(self, source: int, target: int, length: int) -> None:
        """Copy at least the first ``length`` tokens of one slot over another."""


class HostBuffer:
    """Zeroed memory of the CPU, [slots, kv_heads, max_length, head_size]; pages are taken when they are used."""

    def __init__(self, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        # Not np.zeros: NumPy asks for huge pages, and then a short sequence takes the memory of a long one.
        memory = mmap.mmap(-1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        self._array: npt.NDArray[Any] = np.frombuffer(memory, dtype).reshape(shape)

    @property
    def address(self) -> int:
        """Where it begins."""
        return self._array.ctypes.data

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot over another."""
        self._array[target, :, :length] = self._array[source, :, :length]


class KvCache:
    """The buffers of all layers.

    Args:
        buffers: by name, such as ``key_0``.
        layout: their shape.
        dtype: of their elements.
    """

    def __init__(self, buffers: dict[str, DeviceBuffer], layout: CacheLayout, dtype: npt.DTypeLike) -> None:
        self._buffers = buffers
        self._slot_shape = (layout.kv_heads, layout.max_length, layout.head_size)
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    def views(self, first: int, count: int) -> Iterator[tuple[str, int, tuple[int, ...]]]:
        """Name, address and shape of each buffer's slots ``first`` to ``first + count - 1``."""
        offset = first * int(np.prod(self._slot_shape)) * self.dtype.itemsize
        for name, buffer in self._buffers.items():
            yield name, buffer.address + offset, (count, *self._slot_shape)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot over another, in every layer."""
        for buffer in self._buffers.values():
            buffer.move(source, target, length)
