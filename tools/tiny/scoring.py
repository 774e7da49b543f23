"""How well a decoder foresees the held-out dialogues, read through the sessions that serve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from pipeline.runtime.onnx import OnnxBackend
from pipeline.runtime.session import CacheLayout, DecoderSession
from pipeline.settings import RuntimeSettings
from schemas.messages import ChatMessage
from tools.tiny.bpe import ASSISTANT, END, render, special_id

__all__ = ["perplexities"]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def perplexities(
    model: ServedModel, variant: VariantName, conversations: Sequence[Sequence[ChatMessage]]
) -> dict[str, float]:
    """Read ``conversations`` side by side on the CPU.

    Returns:
        ``perplexity`` over all tokens but each first, ``answer_perplexity`` over the assistant's, and ``tokens``, how
        many all are.

    Raises:
        ModelError: the variant cannot be loaded, or the model writes no text.
    """
    spec = model.card.text
    if spec is None:
        raise ModelError(f"model {model.spec}: its card lacks a [text] table.")
    backend = OnnxBackend(RuntimeSettings(provider="cpu"))
    codec = backend.open_tokenizer(model.folder / spec.tokenizer)
    ids = [codec.encode(render(messages)) for messages in conversations]
    layout = CacheLayout.of(spec, slots=len(ids), max_length=spec.max_length)
    losses = _losses(backend.open_decoder(model.path(variant), layout), ids)
    answers = np.concatenate([_answer_mask(row, special_id(ASSISTANT), special_id(END)) for row in ids])
    return {
        "perplexity": round(float(np.exp(losses.mean())), 3),
        "answer_perplexity": round(float(np.exp(losses[answers].mean())), 3),
        "tokens": float(len(losses)),
    }


def _losses(decoder: DecoderSession, dialogues: Sequence[list[int]]) -> Floats:
    """The negative log-probability of each token but the first of each dialogue, one dialogue after another.

    All dialogues are read side by side, one slot each, a token a step.
    """
    length = max(map(len, dialogues))
    ids = np.array([dialogue + [0] * (length - len(dialogue)) for dialogue in dialogues], np.int64)
    rows, steps = np.arange(len(ids)), []
    for at in range(length - 1):
        logs = _log_softmax(decoder.step(0, np.ascontiguousarray(ids[:, at : at + 1]), np.full(len(ids), at)))
        steps.append(-logs[rows, ids[:, at + 1]])
    whole = np.stack(steps, axis=1)
    return np.concatenate([whole[row, : len(dialogue) - 1] for row, dialogue in enumerate(dialogues)])


def _answer_mask(dialogue: Sequence[int], begins: int, ends: int) -> Mask:
    """For each token but the first: whether the assistant wrote it; answers stand between ``begins`` and ``ends``."""
    inside, mask = False, []
    for token in dialogue:
        mask.append(inside)
        inside = token != ends and (inside or token == begins)
    return np.array(mask[1:], np.bool_)


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
