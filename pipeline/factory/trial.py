"""Tries a model out as the task that will serve it does, before anybody relies on it, and sees whether it has FP32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.child import answer
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from pipeline.runtime.onnx import OnnxBackend
from pipeline.runtime.session import SessionError
from pipeline.settings import BatchingSettings, Settings
from pipeline.tasks.make import make_task

__all__ = ["FULL", "check_full", "running", "try_out"]

FULL: VariantName = "fp32"
TRIAL = BatchingSettings(max_batch_size=3, max_slots=2, max_length=256)


def check_full(model: ServedModel, purpose: str) -> None:
    """Raise ModelError where ``model`` has no FP32, with what it was wanted for, such as ``to prune``."""
    if FULL not in model.card.variants:
        raise ModelError(
            f"model {model.spec} has no fp32 variant {purpose}. Pull it with --keep-fp32, or build it again."
        )


@contextmanager
def running(model: ServedModel) -> Iterator[None]:
    """Raise ModelError for a graph of ``model`` that fails in the context, or takes too long, on a sample."""
    try:
        yield
    except SessionError as error:
        raise ModelError(
            f"model {model.spec}: a graph fails on a sample. Build the model again from a graph that takes any "
            f"batch and every input of its task. ONNX Runtime says: {error}"
        ) from error


def try_out(model: ServedModel, settings: Settings, variants: Sequence[VariantName] = ()) -> None:
    """Load variants (all without ``variants``) for the CPU with the task that will serve them, alone and in a batch.

    That is done in a process of its own, for a graph may do anything.

    Raises:
        ModelError: a file is not the one the card names, or a graph does not load, run, give what the card says, or
            answer in time.
    """
    chosen = tuple(variants or model.card.variants)
    answer(f"model {model.spec}: its graph", open_variants, model, settings, chosen)


def open_variants(model: ServedModel, settings: Settings, variants: Sequence[VariantName]) -> None:
    """As :func:`try_out`, in this process."""
    rows = 0 if model.card.vision is None else model.card.vision.image_tokens
    batching = replace(TRIAL, max_length=TRIAL.max_length + rows)
    trial = replace(settings, batching=batching, runtime=replace(settings.runtime, provider="cpu"))
    for variant in variants:
        model.verify(variant)
        if "cpu" not in model.card.variants[variant].providers:
            continue
        try:
            make_task(model, variant, trial, OnnxBackend(trial.runtime), lambda _what, _count: None).open()
        except (SessionError, ModelError) as error:
            failed = error if isinstance(error, SessionError) else error.__cause__
            if not isinstance(failed, SessionError):
                raise
            raise ModelError(
                f"model {model.spec}: its graph {variant} does not run with 1 record and with {TRIAL.max_batch_size}. "
                "Check that its files belong together; where it was exported, export it with dynamic axes. "
                f"ONNX Runtime says: {failed}"
            ) from error
