"""Repositories of the Hugging Face hub, brought to this disk: weights and words, never code or pickles.

``huggingface_hub`` fetches, so its own environment holds: ``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT`` and
``HF_HUB_OFFLINE``.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.factory.progress import Progress

__all__ = ["download"]

MEGABYTE = 1_000_000

WANTED = (
    "config.json",
    "generation_config.json",
    "*_Pooling/config.json",
    "modules.json",
    "sentence_bert_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
)


def download(repository: str, revision: str | None, progress: Progress) -> Path:
    """Fetch what a model is built from, or find it in the cache.

    Args:
        repository: ``ORG/NAME``.
        revision: a branch, tag or commit; ``None`` is the newest.
        progress: told what is going on.

    Returns:
        A folder of the cache, named after the commit.

    Raises:
        ModelError: the hub cannot be reached or does not give it, and it is not in the cache.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    progress(f"fetching {repository} from the Hugging Face hub")
    try:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(WANTED), tqdm_class=_reporter(progress)
            )
        )
    except Exception as error:  # it raises its own errors, those of its HTTP client, and those of the disk
        raise ModelError(f"hf:{repository}: {_explain(error, repository, revision)}") from error


def _reporter(progress: Progress) -> Any:
    """What the library shows its progress with, made to tell ``progress`` at each tenth of the bytes."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Reporter(tqdm):  # type: ignore[misc]
        told = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "file": io.StringIO()})

        def display(self, *_args: Any, **_options: Any) -> None:
            tenths = int(10 * self.n / self.total) if self.unit == "B" and self.total else 0
            if tenths > self.told:
                self.told = tenths
                progress(f"fetched {self.n / MEGABYTE:.0f} of {self.total / MEGABYTE:.0f} MB")

    return Reporter


def _explain(error: Exception, repository: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return "its owner asks for consent before it is given. Agree on its page, and set HF_TOKEN to your token."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the hub has no such model, or it is private (then set HF_TOKEN). There is no folder {repository} either."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub has no revision {revision!r} of it. A revision is a branch, a tag or a whole commit."
    if isinstance(error, errors.HFValidationError):
        return f"not an id of the hub: {error}"
    if constants.HF_HUB_OFFLINE:
        return (
            f"the hub is switched off (HF_HUB_OFFLINE=1), and the model is not in the cache {constants.HF_HUB_CACHE}. "
            "Fetch it once with a network, or give a folder."
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError) and error.errno is not None:
        return f"it cannot be kept in {constants.HF_HUB_CACHE}: {error.strerror}. HF_HOME names another folder."
    return (
        f"the hub at {constants.ENDPOINT} does not give it: {_reason(error)}. Check the network; without one, bring "
        "the model's folder here (config.json, *.safetensors, tokenizer.json and other .json files) and give its path."
    )


def _reason(error: Exception) -> str:
    """What lies at the bottom, in one line: the library wraps a refused connection in advice of its own."""
    bottom: BaseException = error
    while (below := bottom.__cause__ or bottom.__context__) is not None:
        bottom = below
    return (str(bottom).strip().splitlines() or [type(bottom).__name__])[0].rstrip(".")
