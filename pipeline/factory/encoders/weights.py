"""From the tensors of a Hugging Face checkpoint to the names of :mod:`pipeline.factory.encoders.spec`, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.factory.encoders.spec import TransformerSpec
from pipeline.factory.sources.heads import check_heads
from pipeline.factory.sources.safetensors_file import Tensors

__all__ = ["BERT_LAYER", "CLIP_LAYER", "DISTILBERT_LAYER", "VIT_LAYER", "EncoderWeights", "LayerNames", "prefix_of"]

Floats = npt.NDArray[np.float32]
LayerNames = Mapping[str, str]
"""Our name of each part of a layer, and theirs."""
BERT_LAYER: LayerNames = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "attn_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
DISTILBERT_LAYER: LayerNames = {
    "q": "attention.q_lin",
    "k": "attention.k_lin",
    "v": "attention.v_lin",
    "o": "attention.out_lin",
    "attn_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "mlp_norm": "output_layer_norm",
}
VIT_LAYER: LayerNames = {
    "q": "attention.attention.query",
    "k": "attention.attention.key",
    "v": "attention.attention.value",
    "o": "attention.output.dense",
    "attn_norm": "layernorm_before",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "layernorm_after",
}
CLIP_LAYER: LayerNames = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.out_proj",
    "attn_norm": "layer_norm1",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
    "mlp_norm": "layer_norm2",
}


def prefix_of(tensors: Tensors, prefix: str) -> str:
    """``prefix`` where names in the checkpoint begin with it; nothing where it was saved without its head."""
    return prefix if any(name.startswith(prefix) for name in tensors) else ""


class EncoderWeights(Mapping[str, Floats]):
    """Weights by our names; each is read when it is asked for.

    Args:
        tensors: of the checkpoint.
        where: what to call it in messages.
    """

    def __init__(self, tensors: Tensors, where: str) -> None:
        self._tensors, self._where = tensors, where
        self._makers: dict[str, Callable[[], Floats]] = {}

    def add(self, name: str, theirs: str, shape: tuple[int, ...] | None = None) -> None:
        """Name a weight.

        Args:
            name: ours.
            theirs: the name in the checkpoint.
            shape: that it must have, -1 for any length; a tensor of as many numbers in another shape is reshaped.

        Raises:
            ModelError: the tensor is not there.
        """
        found = self._find(theirs)

        def make() -> Floats:
            whole = self._tensors[found]
            if shape is None or whole.shape == shape:
                return whole
            try:
                return whole.reshape(shape)
            except ValueError as error:
                raise ModelError(
                    f"{self._where}: the weight {found} is {list(whole.shape)}, its config.json wants {list(shape)}."
                ) from error

        self._makers[name] = make

    def add_biased(self, name: str, theirs: str, shape: tuple[int, ...] | None = None) -> None:
        """Name a weight and its bias [out]; ``theirs`` comes without ``.weight``. Raises ModelError."""
        self.add(name, f"{theirs}.weight", shape)
        self.add(f"{name}.bias", f"{theirs}.bias", None if shape is None else shape[:1])

    def add_layers(self, spec: TransformerSpec, layers: str, names: LayerNames) -> None:
        """Name the weights of all layers; ``layers`` is what their names begin with, up to the number.

        Raises:
            ModelError: a tensor is not there, or the layers' heads are no equal parts.
        """
        hidden, mlp = spec.hidden, spec.mlp
        check_heads(spec.heads, hidden, self._where)
        shapes = dict.fromkeys("qkvo", (hidden, hidden)) | {"up": (mlp, hidden), "down": (hidden, mlp)}
        for layer in range(spec.layers):
            for name, part in names.items():
                ours, theirs = f"layers.{layer}.{name}", f"{layers}{layer}.{part}"
                shape = shapes.get(name, (hidden,))
                if name in "qkv" and not spec.qkv_bias:
                    self.add(ours, f"{theirs}.weight", shape)
                else:
                    self.add_biased(ours, theirs, shape)

    def __getitem__(self, name: str) -> Floats:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def _find(self, name: str) -> str:
        # The first checkpoints of BERT were converted from TensorFlow, with its names of what a norm has.
        older = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        for candidate in (name, older):
            if candidate in self._tensors:
                return candidate
        raise ModelError(f"{self._where}: the checkpoint has no tensor {name}. Is its config.json another model's?")
