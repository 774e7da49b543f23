"""Tiny encoders of transformers with random weights, saved as it saves them, and how graphs are compared with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pipeline.models.card import ModelCard
from pipeline.runtime.onnx import OnnxSession, open_session
from pipeline.settings import RuntimeSettings

Floats = npt.NDArray[np.float32]
Feeds = dict[str, npt.NDArray[np.int64]]
VOCABULARY, LENGTH, PAD, BEGIN, END = 60, 40, 1, 2, 3
BATCHES = (1, 3, 32)
CPU = RuntimeSettings(provider="cpu", threads=1)
IMAGES = {
    "do_resize": True,
    "size": {"height": 24, "width": 24},
    "do_normalize": True,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.25],
    "resample": 2,
}


def save_encoder(model: Any, folder: Path) -> Any:
    """``model`` for inference, saved with a tokenizer of words, and drawn so that its outputs differ."""
    import torch

    torch.manual_seed(5)
    torch.set_num_threads(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim():
                norm = "norm" in name.lower() and name.endswith("weight")
                parameter.normal_(1.0 if norm else 0.0, 0.3 if parameter.dim() > 1 else 0.1)
    model.eval().save_pretrained(folder)
    words = ["[UNK]", "[PAD]", "[BEGIN]", "[END]", *(f"w{number}" for number in range(VOCABULARY - 4))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[BEGIN]", BEGIN), ("[END]", END)]
    tokenizer.post_processor = processors.TemplateProcessing("[BEGIN] $A [END]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    return model


def open_graph(card: ModelCard, folder: Path, part: str | None = None) -> OnnxSession:
    variant = card.variants["fp32"]
    return open_session(folder / (variant.file if part is None else variant.parts[part].file), CPU)


def texts(rows: int, places: int) -> Feeds:
    """Texts of mixed lengths, padded on the right to ``places``; the first has no padding."""
    rng = np.random.default_rng(rows)
    lengths = np.array([places, *rng.integers(3, places + 1, rows - 1)])
    ids = rng.integers(4, VOCABULARY, (rows, places))
    ids[:, 0], ids[np.arange(rows), lengths - 1] = BEGIN, END
    mask = (np.arange(places) < lengths[:, None]).astype(np.int64)
    return {"input_ids": np.where(mask == 1, ids, PAD), "attention_mask": mask}


def framework(model: Any, feeds: Feeds) -> Any:
    """What ``model``, or a function of it, gives for ``feeds``, as transformers computes it."""
    import torch

    with torch.no_grad():
        return model(**{name: torch.from_numpy(value) for name, value in feeds.items()})


def largest_gap(session: OnnxSession, model: Any, output: str, given: str = "logits", places: int = 12) -> float:
    """Over batches of 1, 3 and 32 texts: how far the graph's ``output`` is from what transformers calls ``given``."""
    gaps = []
    for rows in BATCHES:
        feeds = texts(rows, places)
        gaps.append(np.abs(session.run(feeds)[output] - framework(model, feeds)[given].numpy()).max())
    return float(max(gaps))


def unit(rows: Any) -> Floats:
    """``rows`` of numpy or of torch, brought to unit length."""
    vectors = np.asarray(rows)
    found: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return found


def pixels_of(rows: int, side: int = 24) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(rows).integers(0, 256, (rows, side, side, 3), np.uint8)


def normalized(pixels: npt.NDArray[np.uint8]) -> Any:
    """What transformers' processor makes of images that have the right size already."""
    import torch

    scaled = (pixels / 255 - np.array(IMAGES["image_mean"])) / np.array(IMAGES["image_std"])
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))
