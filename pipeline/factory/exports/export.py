"""A torch module that reads pixels becomes an ONNX graph: the one place that calls ``torch.onnx.export``.

What is done about the exporter's habits (torch 2.9 to 2.15, opset 20):

* adaptive pooling comes out as gathers over computed indices: what it comes to is traced instead;
* frozen batch norms (DETR's) come out as Mul and Add; as plain batch norms they are folded into their convolutions;
* opsets above 21 have no CUDA kernels for MaxPool and others in ONNX Runtime 1.31;
* every node carries a stack trace with paths of this machine; :mod:`pipeline.factory.exports.cleanup` drops it.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline.errors import ModelError, install_extra
from pipeline.factory.exports.cleanup import clean_up
from pipeline.factory.images.pixel_graph import with_pixels
from pipeline.factory.images.spec import PixelInput
from pipeline.models.card import Variant
from pipeline.models.cardfile import sha256_of
from pipeline.runtime.onnx import open_session
from pipeline.settings import RuntimeSettings

__all__ = ["TOLERANCE", "export_graph", "import_framework"]

OPSET = 20
TOLERANCE = 1e-4
# The batches that are compared; the module is traced with yet another.
CHECKED = (1, 3)
TRACED = 2


def import_framework(name: str) -> Any:
    """``torch``, ``torchvision`` or ``transformers``. Raises ModelError when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f"building this model needs {name} ({error}): {install_extra('models')}.") from error


def export_graph(module: Any, target: Path, *, pixels: PixelInput, outputs: Sequence[str]) -> Variant:
    """Write ``module`` as an ONNX graph that reads ``pixels`` and equals it. Returns its entry in a card.

    Args:
        module: a ``torch.nn.Module`` that reads float32 [N, channels, height, width] and returns a tensor, or a tuple
            of them; frozen batch norms in it are replaced by plain ones.
        target: the file to write.
        pixels: the size, which the graph is bound to, and the scaling, which goes into it; the batch is free.
        outputs: their names.

    Raises:
        ModelError: torch is missing, the module cannot be exported, or the graph's outputs differ from the module's by
            more than :data:`TOLERANCE` (for values above 1: of the largest).
    """
    torch = import_framework("torch")
    whole = with_pixels(_thaw(torch, module.eval()), pixels)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # they are about torch's own insides
            model = _export(torch, whole, pixels, outputs)
        clean_up(model)
        onnx.save(model, target)
    except Exception as error:  # the exporter raises nearly anything
        raise ModelError(f"{target.name}: torch cannot export this model to ONNX: {_first_line(error)}") from error
    _check_equal(torch, whole, target, pixels, outputs)
    return Variant(file=target.name, sha256=sha256_of(target), method="exported from torch")


def _export(torch: Any, whole: Any, pixels: PixelInput, outputs: Sequence[str]) -> onnx.ModelProto:
    shapes = ({0: torch.export.Dim("N")},)
    with _plain_pooling(torch):
        program = torch.export.export(whole, (_images(torch, pixels, TRACED),), dynamic_shapes=shapes)
    exported = torch.onnx.export(
        program,
        opset_version=OPSET,
        input_names=["pixels"],
        output_names=list(outputs),
        dynamo=True,
        verbose=False,
    )
    return exported.model_proto


def _plain_pooling(torch: Any) -> Any:
    """Within this, adaptive average pooling is traced as what it comes to for one size of image."""

    class PlainPooling(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.nn.functional.adaptive_avg_pool2d:
                return _pooled(torch, *args, **(kwargs or {}))
            return function(*args, **(kwargs or {}))

    return PlainPooling()


def _pooled(torch: Any, x: Any, output_size: Any) -> Any:
    """A mean, pooling by equal windows, or two products."""
    wanted_sizes = (output_size, output_size) if isinstance(output_size, int) else output_size
    sizes = [(int(size), int(wanted)) for size, wanted in zip(x.shape[2:], wanted_sizes, strict=True)]
    if all(wanted == 1 for _, wanted in sizes):
        return x.mean((2, 3), keepdim=True)
    if all(size % wanted == 0 for size, wanted in sizes):
        window = [size // wanted for size, wanted in sizes]
        return x.clone() if window == [1, 1] else torch.nn.functional.avg_pool2d(x, window)
    rows, columns = (torch.tensor(_windows(size, wanted)) for size, wanted in sizes)
    return rows @ x @ columns.T


def _windows(size: int, wanted: int) -> list[list[float]]:
    """Adaptive pooling of one axis as a matrix [wanted, size]: windows from floor(i s / w) to ceil((i + 1) s / w)."""
    matrix = []
    for index in range(wanted):
        start, end = index * size // wanted, -(-(index + 1) * size // wanted)
        matrix.append([1 / (end - start) if start <= place < end else 0.0 for place in range(size)])
    return matrix


def _thaw(torch: Any, module: Any) -> Any:
    """The same module with plain batch norms in place of frozen ones, which the exporter does not know."""
    for name, child in list(module.named_children()):
        if type(child).__name__.endswith("FrozenBatchNorm2d"):
            norm = torch.nn.BatchNorm2d(len(child.weight), eps=getattr(child, "eps", 1e-5)).eval()
            norm.load_state_dict({**child.state_dict(), "num_batches_tracked": torch.tensor(0)})
            setattr(module, name, norm)
        else:
            _thaw(torch, child)
    return module


def _images(torch: Any, pixels: PixelInput, count: int) -> Any:
    image = pixels.image
    shape = (count, image.height, image.width, image.channels)
    return torch.from_numpy(np.random.default_rng(count).integers(0, 256, shape, np.uint8))


def _check_equal(torch: Any, whole: Any, target: Path, pixels: PixelInput, outputs: Sequence[str]) -> None:
    session = open_session(target, RuntimeSettings(provider="cpu"))
    for count in CHECKED:
        images = _images(torch, pixels, count)
        with torch.no_grad():
            wanted = whole(images)
        found = session.run({"pixels": images.numpy()})
        for name, value in zip(outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            _check_output(name, value.numpy(), found[name], f"{target.name}, batch {count}")


def _check_output(name: str, wanted: Any, found: Any, where: str) -> None:
    if wanted.shape != found.shape:
        raise ModelError(f"{where}: {name} has the shape {found.shape} in ONNX and {wanted.shape} in torch.")
    difference = float(np.abs(wanted - found).max()) / max(1.0, float(np.abs(wanted).max()))
    if not difference <= TOLERANCE:
        raise ModelError(f"{where}: {name} differs by {difference:.2e} from torch, at most {TOLERANCE} is allowed.")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error).strip() else repr(error)
