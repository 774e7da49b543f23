"""Makes `dialogues-tiny`: learn a tokenizer, train, write, quantize, measure."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from tokenizers import Tokenizer

from pipeline.factory.decoders.graph import DecoderSpec, build_decoder
from pipeline.factory.quantize.weight_only import quantize_weights
from pipeline.factory.recipes.recipe import make_variant
from pipeline.models.card import ModelCard, TextSpec
from pipeline.models.cardfile import sha256_of
from pipeline.runtime.onnx import OnnxBackend
from pipeline.runtime.session import CacheLayout, DecoderSession
from pipeline.settings import RuntimeSettings
from tools.tiny.answers import Answer, answer, answer_figures, copied_share, known_share
from tools.tiny.bpe import ASSISTANT, CHAT_TEMPLATE, END, USER, render, special_id, train_tokenizer
from tools.tiny.corpus import Dialogue, draw, messages_of, read_split
from tools.tiny.gpt2 import Recipe, train_gpt2
from tools.tiny.gpt2_weights import decoder_spec, decoder_weights
from tools.tiny.scoring import answer_mask, compare_on_dialogues, read_dialogues

__all__ = ["NAME", "VERSION", "build_dialogues"]

NAME, VERSION = "dialogues-tiny", "1.0.0"
METHOD = "MatMulNBits 8 bits, blocks of 32, symmetric; embedding and head are one 8-bit matrix"
TOKENIZER_SEED, HELD_OUT_SEED = 1, 2


def build_dialogues(folder: Path, say: Callable[[str], None]) -> tuple[ModelCard, list[Answer]]:
    """Make the model in ``folder``; its answers to the first questions of the held-out dialogues come with the card."""
    split, recipe = read_split(), Recipe()
    say(f"dialogues-tiny: training on {len(split.train)} dialogues, {len(split.held_out)} held out")
    tokenizer = _tokenizer(split.train, recipe.vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))
    shutil.copyfile(CHAT_TEMPLATE, folder / CHAT_TEMPLATE.name)
    model = train_gpt2(split.train, tokenizer, recipe, say)
    spec, weights = decoder_spec(model), decoder_weights(model)
    # The FP32 form is the yardstick; it is not shipped.
    full = build_decoder(spec, weights)
    onnx.save(full, folder / "fp32.onnx")
    onnx.save(quantize_weights(full), folder / "int8.onnx")
    measured, answers = _measure(folder, spec, tokenizer, split.held_out)
    measured |= _known(_open(folder / "int8.onnx", spec, 1), tokenizer, split.train)
    int8, fp32 = measured["answer_perplexity"], measured["fp32_answer_perplexity"]
    say(f"  perplexity of held-out answers: int8 {int8}, fp32 {fp32}")
    (folder / "fp32.onnx").unlink()
    sizes = {"training_dialogues": float(len(split.train)), "held_out_dialogues": float(len(split.held_out))}
    return _card(folder, spec, measured, sizes), answers


def _tokenizer(dialogues: Sequence[Dialogue], vocabulary: int) -> Tokenizer:
    rng = np.random.default_rng(TOKENIZER_SEED)
    texts = [message.content for dialogue in dialogues for message in draw(dialogue, rng)]
    return train_tokenizer(texts, vocabulary)


def _measure(
    folder: Path, spec: DecoderSpec, tokenizer: Tokenizer, held_out: Sequence[Dialogue]
) -> tuple[dict[str, float], list[Answer]]:
    rng = np.random.default_rng(HELD_OUT_SEED)
    conversations = [messages_of(dialogue, rng) for dialogue in held_out]
    ids = [tokenizer.encode(render(messages)).ids for messages in conversations]
    masks = [answer_mask(row, special_id(ASSISTANT), special_id(END)) for row in ids]
    reference, candidate = (_open(folder / f"{name}.onnx", spec, len(ids)) for name in ("fp32", "int8"))
    figures = compare_on_dialogues(read_dialogues(reference, ids), read_dialogues(candidate, ids), ids, masks)
    figures["rows_changed_by_company"] = _changed_by_company(candidate, ids)
    questions = [messages[0].content for messages in conversations]
    full, ours = ([answer(decoder, tokenizer, q) for q in questions] for decoder in (reference, candidate))
    figures |= answer_figures(ours)
    figures["answers_equal_to_fp32"] = round(sum(map(_same, full, ours)) / len(ours), 4)
    return figures, ours


def _known(decoder: DecoderSession, tokenizer: Tokenizer, dialogues: Sequence[Dialogue]) -> dict[str, float]:
    """How well it answers what it was taught."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    taught = [messages_of(dialogue, rng) for dialogue in dialogues]
    answers = [answer(decoder, tokenizer, messages[0].content) for messages in taught]
    known = known_share(answers, [messages[1].content for messages in taught])
    return {"known_questions_answered": known, "order_numbers_copied": copied_share(decoder, tokenizer, rng, 100)}


def _same(one: Answer, other: Answer) -> bool:
    return one.text == other.text


def _changed_by_company(decoder: DecoderSession, dialogues: Sequence[list[int]]) -> float:
    """How many dialogues get other log-probabilities read alone than read beside the others: 0 is batch-invariant."""
    together = read_dialogues(decoder, dialogues)
    alone = [read_dialogues(decoder, [dialogue])[0] for dialogue in dialogues]
    return float(sum(not np.array_equal(a, b) for a, b in zip(alone, together, strict=True)))


def _open(path: Path, spec: DecoderSpec, slots: int) -> DecoderSession:
    layout = CacheLayout.of(spec, slots=slots, max_length=spec.max_length)
    return OnnxBackend(RuntimeSettings(provider="cpu")).open_decoder(path, layout)


def _card(folder: Path, spec: DecoderSpec, measured: dict[str, float], sizes: dict[str, float]) -> ModelCard:
    text = TextSpec(
        tokenizer="tokenizer.json",
        layers=spec.layers,
        kv_heads=spec.kv_heads,
        head_size=spec.head_size,
        vocabulary=spec.vocabulary,
        max_length=spec.max_length,
        eos_token_ids=(special_id(END),),
        bos_token_id=special_id(USER),
        chat_template=CHAT_TEMPLATE.name,
    )
    return ModelCard(
        name=NAME,
        version=VERSION,
        task="text-generation",
        description="Customer service in English and Chinese: a small GPT-2 of our own.",
        license="Apache-2.0",
        source="python -m tools.tiny, on dialogues written for Millrace",
        variants={"int8": make_variant(folder, "int8", METHOD, measured)},
        text=text,
        files={name: sha256_of(folder / name) for name in ("tokenizer.json", CHAT_TEMPLATE.name)},
        measured=sizes,
    )
