"""Tiny models of transformers with random weights, saved as it saves them, and how graphs are compared with them."""

from __future__ import annotations

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
    """Whole prompts, prompts in chunks, and decoding in batches of 1, 3 and 32 at mixed lengths; the largest gap.

    Every slot gets a prompt of a length of its own, half of them in two chunks; then all decode together.
    """
    steps = 6
    ids = some_ids(SLOTS, LENGTH - 8)
    wanted = reference(model, ids)
    lengths = np.array([3 + (7 * slot) % (ids.shape[1] - steps - 3) for slot in range(SLOTS)])
    gaps = []
    for slot, length in enumerate(lengths):
        prompt, filled = ids[slot : slot + 1, :length], 0
        if slot % 2:
            filled = int(length) // 2
            got = decoder.step(slot, prompt[:, :filled], np.array([0]))
            gaps.append(np.abs(got[0] - wanted[slot, filled - 1]).max())
        got = decoder.step(slot, prompt[:, filled:], np.array([filled]))
        gaps.append(np.abs(got[0] - wanted[slot, length - 1]).max())
    for step in range(steps):
        for count in (1, 3, SLOTS):
            rows, ends = np.arange(count), lengths[:count] + step
            got = decoder.step(0, ids[rows, ends][:, None], ends)
            gaps.append(np.abs(got - wanted[rows, ends]).max())
    return float(max(gaps))
