"""Any classifier of torchvision, by its name, with a checkpoint of one's own or the weights that torchvision offers.

What the images look like comes from the transforms of torchvision's default weights for that name, for a checkpoint of
one's own too, unless the user says otherwise: whoever tunes a pretrained network keeps its preprocessing.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.exports.export import export_graph, import_framework
from pipeline.factory.family import IMAGE_HINTS, Family, Source, Workbench
from pipeline.factory.images.card import FP32, image_card, with_hints
from pipeline.factory.images.spec import PixelInput
from pipeline.factory.sources.labels import labels_of
from pipeline.factory.sources.safetensors_file import read_safetensors
from pipeline.factory.sources.torch_file import read_state_dict
from pipeline.models.card import ImageSpec, ModelCard

__all__ = ["FAMILY"]

# These would be initialised for minutes, and scale their input as the weights they are tuned from expect.
INCEPTIONS = ("googlenet", "inception_v3")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box")


class _Network(Struct, frozen=True):
    """A network with its weights, and what the default weights of its name say of images and labels."""

    module: Any
    classes: int
    pixels: PixelInput
    categories: tuple[str, ...]


def _build(source: Source, bench: Workbench) -> ModelCard:
    network = _load(source, bench)
    labels = labels_of(source, network.classes, network.categories)
    pixels = with_hints(network.pixels, source.hints)
    bench.progress("exporting the FP32 graph")
    variant = export_graph(network.module, bench.folder / FP32, pixels=pixels, outputs=["logits"])
    description = f"torchvision's {source.architecture}, {network.classes} classes."
    return image_card(source, bench, variant, pixels, labels, description=description)


def _load(source: Source, bench: Workbench) -> _Network:
    models = import_framework("torchvision").models
    name = source.architecture
    _check_name(source, models.list_models(module=models))
    defaults = models.get_model_weights(name).DEFAULT
    if source.path is not None:
        weights = _read(source.path)
    else:
        bench.progress(f"downloading {defaults}")
        weights = _download(source, defaults)
    classes, module = _network(source, models, weights)
    return _Network(module, classes, _pixels(defaults.transforms()), tuple(defaults.meta["categories"]))


def _check_name(source: Source, known: list[str]) -> None:
    if source.architecture in known:
        return
    nearest = difflib.get_close_matches(source.architecture, known, n=3) or sorted(known)
    raise ModelError(
        f"{source.origin}: torchvision has no classifier {source.architecture!r}. "
        f"Did you mean {', '.join(nearest[:3])}? torchvision.models.list_models() names all."
    )


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint's tensors. A network that was trained on several GPUs has ``module.`` before every name."""
    torch = import_framework("torch")
    try:
        tensors: Mapping[str, Any] = (
            read_safetensors(path) if path.suffix == ".safetensors" else read_state_dict(path.read_bytes())
        )
    except OSError as error:
        raise ModelError(f"{path}: the checkpoint cannot be read: {error}.") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return {name.removeprefix("module."): torch.from_numpy(np.array(tensors[name])) for name in tensors}


def _download(source: Source, weights: Any) -> dict[str, Any]:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub says where it downloads from, and JSON goes there
            return cast(dict[str, Any], weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:  # no network, no room, or not the file that was expected
        raise ModelError(
            f"{source.origin}: torchvision's weights {weights} cannot be downloaded: {error}. "
            "Give a checkpoint of your own: --checkpoint FILE (.safetensors, or .pth with a state_dict)."
        ) from error


def _network(source: Source, models: Any, weights: Mapping[str, Any]) -> tuple[int, Any]:
    """How many classes ``weights`` have, and the network with them. Raises ModelError when they are another's."""
    module = _make(models, source.architecture)
    last = _last_layer(module)
    head = weights.get(f"{last}.weight")
    if head is None:
        raise ModelError(f"{source.origin}: the checkpoint has no {last}.weight: it is not one of this network.")
    classes = int(head.shape[0])
    if classes != module.get_submodule(last).weight.shape[0]:
        module = _make(models, source.architecture, num_classes=classes)
    _check_names(source, module, weights)
    # What torchvision keeps beside the weights (the layout's version, for MNASNet) is in no file that is read as data.
    whole = module.state_dict()
    whole.update({name: tensor for name, tensor in weights.items() if name in whole})
    try:
        module.load_state_dict(whole)
    except RuntimeError as error:
        raise ModelError(f"{source.origin}: the checkpoint is not one of this network: {error}") from error
    return classes, module.eval()


def _make(models: Any, name: str, **options: Any) -> Any:
    inception = {"init_weights": False, "transform_input": True} if name in INCEPTIONS else {}
    return models.get_model(name, weights=None, **inception, **options)


def _last_layer(module: Any) -> str:
    """The name of the layer whose outputs are the classes: the last that is linear, or a convolution (SqueezeNet)."""
    torch = import_framework("torch")
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    names: list[str] = [name for name, child in module.named_modules() if isinstance(child, layers)]
    return names[-1]


def _check_names(source: Source, module: Any, weights: Mapping[str, Any]) -> None:
    """Every weight has its place and every place its weight; heads that help in training alone may be left out."""
    own = set(module.state_dict())
    odd = {
        name for name in own ^ set(weights) if not name.endswith("num_batches_tracked") and "aux" not in name.lower()
    }
    if odd:
        name = min(odd)
        what = "lacks" if name in own else "has"
        raise ModelError(
            f"{source.origin}: the checkpoint is not one of this network: it {what} {name} ({len(odd)} such names). "
            "Give the torchvision name that it was trained with."
        )


def _pixels(transforms: Any) -> PixelInput:
    """What torchvision's preset for classifiers does to an image."""
    name = str(transforms.interpolation.value)
    if name not in INTERPOLATIONS:
        raise ModelError(f"torchvision resizes by {name} here; {', '.join(INTERPOLATIONS)} can be served.")
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    return PixelInput(
        image=ImageSpec(
            height=crop,
            width=crop,
            channels=3,
            resize=resize,
            interpolation=cast(Literal["nearest", "bilinear", "bicubic", "box"], name),
        ),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


FAMILY = Family(
    name="torchvision",
    tasks=("image-classification",),
    hints=("labels", *IMAGE_HINTS),
    kind="torchvision",
    build=_build,
)
