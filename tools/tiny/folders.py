"""Plain Hugging Face folders: what transformers and the model factory load without knowing this repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tools.tiny.pixels import MEAN, STD
from tools.tiny.scenes import SIZE

__all__ = ["save_model", "save_preprocessor", "save_tokenizer"]


def save_model(model: Any, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    model.to("cpu").save_pretrained(folder)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, chat_template: str | None = None, **special: str) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` with the ``special`` pieces, and a chat template."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)
    if chat_template is not None:
        fast.chat_template = chat_template
    fast.save_pretrained(folder)


def save_preprocessor(kind: str, folder: Path) -> None:
    """Write ``preprocessor_config.json``: stretched to a scene's square, scaled to 0..1, normalised."""
    described = {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": SIZE, "width": SIZE},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "do_pad": False,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
