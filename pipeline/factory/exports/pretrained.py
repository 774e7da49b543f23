"""A model of transformers from files: nothing is fetched, no code of a model is run, no weight is made up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import ModelError
from pipeline.factory.exports.export import import_framework
from pipeline.factory.family import Source
from pipeline.factory.sources.finite import check_finite

__all__ = ["load_pretrained"]


def load_pretrained(
    source: Source, config: Mapping[str, Any] | None = None, weights: Mapping[str, Any] | None = None
) -> Any:
    """The model that ``source.architecture`` names, in float32 and for inference.

    Args:
        source: a Hugging Face folder.
        config: instead of the folder's.
        weights: torch tensors by name, instead of the folder's.

    Raises:
        ModelError: torch or transformers is missing, the files are not this architecture's, or a weight is missing or
            holds NaN or infinities.
    """
    folder = source.folder
    import_framework("torch")
    transformers = import_framework("transformers")
    kind = getattr(transformers, source.architecture)
    try:
        with _quiet(transformers.utils.logging):
            model, report = kind.from_pretrained(
                folder if weights is None else None,
                config=kind.config_class.from_dict(dict(config or source.config)),
                state_dict=None if weights is None else dict(weights),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="eager",  # as plain MatMul and Softmax, which ONNX Runtime knows how to fuse
                dtype="float32",
                output_loading_info=True,
            )
    except Exception as error:  # the library raises nearly anything
        raise ModelError(f"{source.origin}: transformers cannot load this {source.architecture}: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{source.origin}: {len(missing)} weights are missing, such as {missing[0]}. "
            f"These files are not a whole {source.architecture}."
        )
    for name, tensor in model.state_dict().items():
        check_finite(tensor.numpy(), name, f"{source.origin}: ")
    return model.eval()


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """No progress bar and no advice while weights are read."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
