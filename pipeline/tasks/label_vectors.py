"""Embeddings of labels, remembered: the same few are asked for with image after image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pipeline.runtime.session import Floats
from pipeline.tasks.text_batch import Tokens

__all__ = ["LabelVectors"]


class LabelVectors:
    """The least recently used ones are forgotten. A remembered vector is the one that a run would give again.

    Args:
        encode: the embedding of each text. Raises SessionError.
        kept: how many are remembered.
    """

    def __init__(self, encode: Callable[[Sequence[Tokens]], Sequence[Floats]], kept: int) -> None:
        self._encode = encode
        self._most = kept
        self._kept: OrderedDict[Tokens, Floats] = OrderedDict()

    def of(self, labels: Iterable[Tokens]) -> dict[Tokens, Floats]:
        """The embedding of each of ``labels``. Raises SessionError."""
        wanted = list(dict.fromkeys(labels))
        new = [label for label in wanted if label not in self._kept]
        vectors = self._kept | dict(zip(new, self._encode(new), strict=True)) if new else self._kept
        found = {label: vectors[label] for label in wanted}
        self._remember(found)
        return found

    def forget(self) -> None:
        """Forget all of them."""
        self._kept.clear()

    def _remember(self, found: dict[Tokens, Floats]) -> None:
        for label, vector in found.items():
            if np.isfinite(vector).all():
                self._kept[label] = vector
                self._kept.move_to_end(label)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
