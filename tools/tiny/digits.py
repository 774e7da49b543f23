"""Makes `digits-tiny`: train, write, quantize, measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from pipeline.factory.gates.classifiers import compare_classifiers
from pipeline.factory.quantize.static import METHOD, quantize_static_int8
from pipeline.factory.recipes.recipe import make_variant
from pipeline.models.card import ImageSpec, ModelCard, Precision, Variant
from pipeline.models.cardfile import sha256_of
from pipeline.models.heldout import HELD_OUT_FILE, HeldOutDigits
from pipeline.runtime.onnx import open_session
from pipeline.runtime.session import Session
from pipeline.settings import RuntimeSettings
from tools.tiny.digits_data import DigitsSplit, read_digits
from tools.tiny.digits_graph import build_digits_graph
from tools.tiny.digits_net import DigitsRecipe, train_digits

__all__ = ["NAME", "VERSION", "build_digits"]

NAME, VERSION = "digits-tiny", "1.0.0"
LABELS = "labels.txt"
SPEC = ImageSpec(height=8, width=8, channels=1, resize=8, labels=LABELS, interpolation="box")
PRECISIONS: tuple[Precision, ...] = ("int8", "fp32")
MATE_COUNTS = (1, 7, 64)


def build_digits(folder: Path, say: Callable[[str], None]) -> ModelCard:
    """Make the model in ``folder``, and write the held-out digits beside the shipped models."""
    split = read_digits()
    _write_held_out(split.held_out)
    say(f"digits-tiny: training on {len(split.labels)} digits")
    net = train_digits(split, DigitsRecipe(), say)
    onnx.save(build_digits_graph(net), folder / "fp32.onnx")
    quantize_static_int8(folder / "fp32.onnx", folder / "int8.onnx", _calibration(split))
    (folder / LABELS).write_text("".join(f"{digit}\n" for digit in range(10)), encoding="utf-8")
    measured = _measure(folder, split.held_out)
    say(f"  held-out accuracy: int8 {measured['int8']['accuracy']}, fp32 {measured['fp32']['accuracy']}")
    return _card(folder, measured, split)


def _write_held_out(held_out: HeldOutDigits) -> None:
    HELD_OUT_FILE.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(HELD_OUT_FILE, pixels=held_out.pixels, labels=held_out.labels)


def _calibration(split: DigitsSplit) -> list[dict[str, npt.NDArray[np.uint8]]]:
    return [{"pixels": split.pixels[start : start + 64, :, :, None]} for start in range(0, 512, 64)]


def _measure(folder: Path, held_out: HeldOutDigits) -> dict[Precision, dict[str, float]]:
    runtime = RuntimeSettings(provider="cpu")
    sessions: dict[Precision, Session] = {name: open_session(folder / f"{name}.onnx", runtime) for name in PRECISIONS}
    batches = [{"pixels": held_out.pixels[..., None]}]
    measured = {name: _figures(session, held_out) for name, session in sessions.items()}
    measured["int8"] |= compare_classifiers(sessions["fp32"], sessions["int8"], batches)
    return measured


def _figures(session: Session, held_out: HeldOutDigits) -> dict[str, float]:
    """Accuracy, and how far any logit moves with the company that an image is in: 0 is batch-invariant."""
    pixels = held_out.pixels[..., None]
    whole = session.run({"pixels": pixels})["logits"]
    moved = 0.0
    for count in MATE_COUNTS:
        parts = [session.run({"pixels": pixels[i : i + count]})["logits"] for i in range(0, len(pixels), count)]
        moved = max(moved, float(np.abs(np.concatenate(parts) - whole).max()))
    accuracy = float((whole.argmax(axis=1) == held_out.labels).mean())
    return {"accuracy": round(accuracy, 4), "max_difference_in_other_batches": moved}


def _card(folder: Path, measured: dict[Precision, dict[str, float]], split: DigitsSplit) -> ModelCard:
    methods = {"int8": METHOD, "fp32": "batch norms folded"}
    variants: dict[str, Variant] = {
        name: make_variant(folder, name, methods[name], measured[name]) for name in PRECISIONS
    }
    return ModelCard(
        name=NAME,
        version=VERSION,
        task="image-classification",
        description="Handwritten digits of 8 x 8 pixels: a small convolutional net of our own.",
        license="Apache-2.0; trained on data under CC BY 4.0",
        source="python -m tools.tiny, on Optical Recognition of Handwritten Digits (UCI, through scikit-learn)",
        variants=variants,
        image=SPEC,
        files={LABELS: sha256_of(folder / LABELS)},
        measured={"training_digits": float(len(split.labels)), "held_out_digits": float(len(split.held_out))},
    )
