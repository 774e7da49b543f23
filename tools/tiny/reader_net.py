"""The Llava of `digit-reader-tiny` and its training (Liu et al. 2023): a CLIP vision tower before a tiny Llama."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from tools.tiny.bpe import train_tokenizer
from tools.tiny.patches import PATCH, PatchTeacher
from tools.tiny.pixels import pixel_values
from tools.tiny.questions import asked
from tools.tiny.scenes import SIZE, Ink, Scene, SceneRecipe, batches_of
from tools.tiny.training import FitRecipe, fit, quiet

__all__ = ["END", "PAD", "READER_FIT", "READER_SCENES", "reader_tokenizer", "train_reader"]

READER_SCENES = SceneRecipe(counts=(1, 3), lone_scale=7.0, min_gap=6)
READER_FIT = FitRecipe(steps=4000, rows=64, learning_rate=1.5e-3)
END, SYSTEM, USER, ASSISTANT, IMAGE, PAD = SPECIAL = (
    "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<image>", "<pad>",
)  # fmt: skip
IMAGE_TOKENS = (SIZE // PATCH) ** 2
VOCABULARY = 352
MAX_TOKENS = 128
IGNORED = -100
VISION = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}


def train_reader(digits: Ink, tokenizer: Tokenizer, recipe: FitRecipe, say: Callable[[str], None]) -> Any:
    """Train from scratch on scenes of ``digits`` and return the `LlavaForConditionalGeneration`, ready to evaluate."""
    quiet()
    torch.manual_seed(recipe.seed)
    model = LlavaForConditionalGeneration(_config(tokenizer))
    model.patch_teacher = PatchTeacher(VISION["hidden_size"])
    rng = np.random.default_rng(recipe.seed)
    scenes = batches_of(digits, READER_SCENES, recipe.rows, recipe.seed)
    fit(model, lambda drawn: _loss(model, tokenizer, drawn, rng), scenes, recipe, say)
    del model.patch_teacher
    return model


def reader_tokenizer() -> Tokenizer:
    """A tokenizer of the questions and answers."""
    rng = np.random.default_rng(0)
    drawn = (asked(rng.integers(0, 10, rng.integers(1, 4)).tolist(), rng) for _ in range(1000))
    return train_tokenizer((text for pairs in drawn for pair in pairs for text in pair), VOCABULARY, SPECIAL)


def _prompt(question: str) -> str:
    """A question of a scene as the chat template writes it, with one piece for each patch of the image."""
    return f"{USER}{IMAGE * IMAGE_TOKENS}{question}{ASSISTANT}"


def _config(tokenizer: Tokenizer) -> Any:
    end, pad = SPECIAL.index(END), SPECIAL.index(PAD)
    text = LlamaConfig(
        **TEXT,
        vocab_size=tokenizer.get_vocab_size(),
        num_key_value_heads=TEXT["num_attention_heads"],
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=pad,
    )
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=SIZE, patch_size=PATCH),
        text_config=text,
        image_token_index=SPECIAL.index(IMAGE),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
        eos_token_id=end,
        pad_token_id=pad,
    )


def _loss(model: Any, tokenizer: Tokenizer, scenes: Sequence[Scene], rng: np.random.Generator) -> Any:
    ids, labels = _rows(tokenizer, scenes, rng)
    seen = model.model.get_image_features(
        pixel_values(scenes), vision_feature_layer=-1, vision_feature_select_strategy="default"
    )
    embedded = model.get_input_embeddings()(ids)
    image = torch.cat(list(seen.pooler_output))
    embedded = embedded.masked_scatter((ids == SPECIAL.index(IMAGE)).unsqueeze(-1), image)
    hidden = model.model.language_model(inputs_embeds=embedded).last_hidden_state[:, IMAGE_TOKENS:-1]
    counted = labels[:, IMAGE_TOKENS + 1 :]
    logits = model.lm_head(hidden[counted != IGNORED])
    answers = functional.cross_entropy(logits, counted[counted != IGNORED])
    return answers + model.patch_teacher(seen.hidden_states[-1][:, 1:], scenes)


def _rows(tokenizer: Tokenizer, scenes: Sequence[Scene], rng: np.random.Generator) -> tuple[Any, Any]:
    """Token ids and labels int64 [scenes, longest]: all questions of a scene one after the other, answers counted."""
    rows = [_row(tokenizer, asked(scene.labels, rng)) for scene in scenes]
    longest = max(len(ids) for ids, _ in rows)
    pad = SPECIAL.index(PAD)
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in rows])
    return ids, labels


def _row(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    labels: list[int] = []
    for question, answer in pairs:
        shown = _prompt(question) if not ids else f"{USER}{question}{ASSISTANT}"
        before, after = tokenizer.encode(shown).ids, tokenizer.encode(answer + END).ids
        ids += before + after
        labels += [IGNORED] * len(before) + after
    return ids, labels
