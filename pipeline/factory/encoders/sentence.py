"""What a folder of sentence-transformers says beside the model itself: how tokens become one vector, and how many."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.encoders.text import Pooling
from pipeline.factory.sources.json_file import read_json_object, read_json_objects

__all__ = ["SentenceSpec", "read_sentence_spec"]

MODULES, LENGTH = "modules.json", "sentence_bert_config.json"
POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "mean": "mean",
    "cls": "first",
}


class SentenceSpec(Struct, frozen=True, kw_only=True):
    """How a sentence is embedded. As in sentence-transformers, the mean of its tokens where nothing is said.

    Attributes:
        max_length: tokens a text may have, where the folder says so.
    """

    pooling: Pooling = "mean"
    max_length: int | None = None


def read_sentence_spec(folder: Path) -> SentenceSpec:
    """Read ``modules.json`` and what it names. Unit length is not asked for: every embedding here has it.

    Raises:
        ModelError: a file is damaged, or there is a module or a pooling that is not built.
    """
    pooling: Pooling = "mean"
    for module in read_json_objects(folder / MODULES):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(folder / str(module.get("path", "")) / "config.json")
        elif kind not in {"Transformer", "Normalize"}:
            raise ModelError(
                f"{folder / MODULES}: the module {kind} is not built, only Transformer, Pooling and Normalize are. "
                "Export the model to ONNX with the output `embedding`, and build from that file."
            )
    length = read_json_object(folder / LENGTH, missing={}).get("max_seq_length")
    return SentenceSpec(pooling=pooling, max_length=length if isinstance(length, int) else None)


def _pooling(path: Path) -> Pooling:
    if not path.is_file():
        raise ModelError(f"{path}: it is missing, and it says how tokens become one vector. Fetch the model again.")
    config = read_json_object(path)
    wanted = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    wanted += [value for value in [config.get("pooling_mode")] if isinstance(value, str)]
    if len(wanted) != 1 or wanted[0] not in POOLINGS:
        raise ModelError(f"{path}: pooling by {' and '.join(wanted) or 'nothing'} is not built, only the mean or CLS.")
    return POOLINGS[wanted[0]]
