"""The CLIP of `digit-clip-tiny` and its training (Radford et al. 2021), on scenes and their captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, processors
from transformers import CLIPConfig, CLIPModel

from tools.tiny.bpe import train_tokenizer
from tools.tiny.captions import caption, every_word
from tools.tiny.patches import PATCH, PatchTeacher
from tools.tiny.pixels import pixel_values
from tools.tiny.scenes import SIZE, Ink, Scene, SceneRecipe, batches_of
from tools.tiny.training import FitRecipe, fit, quiet

__all__ = ["BEGIN", "CLIP_FIT", "CLIP_SCENES", "END", "PAD", "clip_tokenizer", "train_clip"]

CLIP_SCENES = SceneRecipe(counts=(1, 3), lone_scale=7.0, min_gap=6)
CLIP_FIT = FitRecipe(steps=6000, rows=64, learning_rate=1.5e-3)
# The end has not the id 2: transformers takes that for the sign of an old fault, and looks for the highest id instead.
PAD, BEGIN, OTHER, END = SPECIAL = ("<pad>", "<begin>", "<other>", "<end>")
VOCABULARY = 320
MAX_TOKENS = 32
VISION = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}


def train_clip(digits: Ink, tokenizer: Tokenizer, recipe: FitRecipe, say: Callable[[str], None]) -> Any:
    """Train from scratch on scenes of ``digits`` and return the `CLIPModel`, ready to evaluate."""
    quiet()
    torch.manual_seed(recipe.seed)
    model = CLIPModel(_config(tokenizer))
    model.patch_teacher = PatchTeacher(VISION["hidden_size"])
    rng = np.random.default_rng(recipe.seed)
    scenes = batches_of(digits, CLIP_SCENES, recipe.rows, recipe.seed)
    fit(model, lambda drawn: _loss(model, tokenizer, drawn, rng), scenes, recipe, say)
    del model.patch_teacher
    return model


def clip_tokenizer() -> Tokenizer:
    """A tokenizer of the captions; each text is put between the pieces that begin and end it."""
    tokenizer = train_tokenizer(every_word(), VOCABULARY, SPECIAL, lowercase=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, SPECIAL.index(BEGIN)), (END, SPECIAL.index(END))]
    )
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def _text_inputs(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """``input_ids`` and ``attention_mask``, int64 [texts, longest]."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [SPECIAL.index(PAD)] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != SPECIAL.index(PAD)).long()}


def _config(tokenizer: Tokenizer) -> Any:
    tokens = {f"{name}_token_id": SPECIAL.index(piece) for name, piece in (("pad", PAD), ("bos", BEGIN), ("eos", END))}
    return CLIPConfig(
        text_config=TEXT
        | {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": MAX_TOKENS, "projection_dim": 64}
        | tokens,
        vision_config=VISION | {"image_size": SIZE, "patch_size": PATCH, "projection_dim": 64},
        projection_dim=64,
    )


def _loss(model: Any, tokenizer: Tokenizer, scenes: Sequence[Scene], rng: np.random.Generator) -> Any:
    texts = _text_inputs(tokenizer, [caption(scene.labels, rng) for scene in scenes])
    outputs = model(pixel_values=pixel_values(scenes), **texts)
    same = torch.tensor([[one.labels == other.labels for other in scenes] for one in scenes]).float()
    wanted = same / same.sum(dim=1, keepdim=True)
    logits = outputs.logits_per_image
    contrast = -(wanted * (logits.log_softmax(dim=1) + logits.T.log_softmax(dim=1))).sum(dim=1).mean() / 2
    return contrast + model.patch_teacher(outputs.vision_model_output.last_hidden_state[:, 1:], scenes)
