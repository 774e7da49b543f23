"""Tiny models of transformers with random weights, saved as it saves them, and how graphs are compared with them."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from pipeline.factory.family import Source, Workbench
from pipeline.models.card import ModelCard
from pipeline.runtime.onnx import OnnxBackend, OnnxDecoder
from pipeline.runtime.session import CacheLayout
from pipeline.settings import RuntimeSettings

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
VOCABULARY, LENGTH, SLOTS = 300, 48, 32
STEPS = 6
"""Tokens that are decoded after a prompt."""
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"


def save_model(model: Any, folder: Path) -> Path:
    """``model`` as ``save_pretrained`` leaves it, with a tokenizer of bytes; drawn so that logits differ."""
    import torch

    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = name.endswith("weight") and ("norm" in name or ".ln_" in name)
            parameter.normal_(1.0 if is_norm else 0.0, 0.2)
    model.eval().save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path, special: tuple[str, ...] = ("<s>", "</s>", "<image>")) -> None:
    """One token a byte, special ones behind; the post-processor puts ``<s>`` before a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $0", special_tokens=[("<s>", 256)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def source_of(folder: Path) -> Source:
    config = json.loads((folder / "config.json").read_text())
    return Source(
        kind="huggingface", origin="tiny", path=folder, config=config, architecture=config["architectures"][0]
    )


def bench_of(folder: Path) -> Workbench:
    built, scratch = folder / "built", folder / "scratch"
    built.mkdir()
    scratch.mkdir()
    return Workbench(name="tiny", version="1", folder=built, scratch=scratch, progress=lambda _: None)


def open_built(card: ModelCard, folder: Path, slots: int = SLOTS) -> OnnxDecoder:
    """The FP32 decoder of a built model, with room for :data:`LENGTH` tokens a slot."""
    assert card.text is not None
    layout = CacheLayout.of(card.text, slots=slots, max_length=LENGTH)
    backend = OnnxBackend(RuntimeSettings(provider="cpu", threads=1))
    return backend.open_decoder(card.variant_path(folder, "fp32"), layout)


def some_ids(rows: int, length: int) -> Ids:
    return np.random.default_rng(3).integers(0, 256, (rows, length))


def reference(model: Any, ids: Ids) -> Floats:
    """The framework's logits [N, T, vocabulary] after every token of ``ids`` [N, T]."""
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits: Floats = model(torch.from_numpy(ids)).logits.numpy()
    return logits


def check_against_framework(decoder: OnnxDecoder, model: Any) -> float:
    """The largest gap between the decoder's logits and the framework's, as :func:`largest_gap` finds it."""
    ids = some_ids(SLOTS, LENGTH - 8)
    return largest_gap(decoder, ids, reference(model, ids), prompt_lengths(shortest=3))


def prompt_lengths(shortest: int) -> Ids:
    """Of each slot's prompt, mixed, with room for :data:`STEPS` tokens more among ``LENGTH - 8``."""
    return np.array([shortest + (7 * slot) % (LENGTH - 8 - STEPS - shortest) for slot in range(SLOTS)])


def largest_gap(decoder: OnnxDecoder, ids: Ids, wanted: Floats, lengths: Ids, images: Floats | None = None) -> float:
    """Whole prompts, prompts in chunks, and decoding in batches of 1, 3 and 32 at mixed lengths.

    Every slot gets a prompt of a length of its own, every second one in two halves; then all decode together.

    Args:
        decoder: with :data:`SLOTS` slots.
        ids: [SLOTS, T].
        wanted: the framework's logits [SLOTS, T, vocabulary] after each of them.
        lengths: of the prompts.
        images: what stands in the places of the images' tokens, [SLOTS, T, hidden].
    """
    gaps = []
    for slot, length in enumerate(lengths):
        cuts = [0, int(length) // 2, int(length)] if slot % 2 else [0, int(length)]
        for begin, end in itertools.pairwise(cuts):
            seen = None if images is None else images[slot : slot + 1, begin:end]
            got = decoder.step(slot, ids[slot : slot + 1, begin:end], np.array([begin]), seen)
            gaps.append(np.abs(got[0] - wanted[slot, end - 1]).max())
    for step in range(STEPS):
        for count in (1, 3, SLOTS):
            rows, ends = np.arange(count), lengths[:count] + step
            got = decoder.step(0, ids[rows, ends][:, None], ends)
            gaps.append(np.abs(got - wanted[rows, ends]).max())
    return float(max(gaps))
