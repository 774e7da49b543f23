"""Brings an image classifier in ONNX to the card's contract: uint8 pixels in, scaling inside, logits out."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.errors import ModelError
from pipeline.factory.family import Source, check_hints
from pipeline.factory.foreign.edit import GraphEdit, Shape, check_float32, shape_of
from pipeline.factory.images.card import per_channel, with_hints
from pipeline.factory.images.spec import FILES, PixelInput, read_pixel_input
from pipeline.models.card import ImageSpec

__all__ = ["adapt_classifier", "is_image_input"]

CHANNELS = (1, 3)
# How much larger than the crop an image is made, where nobody says: ImageNet's 256 to 224.
RESIZE = 256 / 224


def is_image_input(value: onnx.ValueInfoProto) -> bool:
    """Whether an input looks like a batch of images."""
    return len(shape_of(value)) == 4


def adapt_classifier(model: onnx.ModelProto, source: Source) -> ImageSpec:
    """Change ``model`` in place so that it takes ``pixels`` and gives ``logits`` and nothing else.

    An input that is ``pixels`` uint8 [N, H, W, C] already is left as it is. A softmax at the end is left out.

    Returns:
        How an image becomes ``pixels``, without the labels.

    Raises:
        ModelError: the inputs or outputs are not those of an image classifier, or nobody says how pixels are scaled.
    """
    edit, where = GraphEdit(model), source.origin
    if len(edit.inputs) != 1:
        raise ModelError(f"{where}: an image classifier has one input, this has {', '.join(edit.inputs)}.")
    (value,) = edit.inputs.values()
    if not is_image_input(value):
        raise ModelError(f"{where}: its input {value.name!r} has the shape {shape_of(value)}, not that of images.")
    if value.type.tensor_type.elem_type == TensorProto.UINT8:
        image = _as_decoded(edit, value, source)
    else:
        image = _scaled(edit, value, source)
    _give_logits(edit, where)
    edit.finish()
    return image


def _as_decoded(edit: GraphEdit, value: onnx.ValueInfoProto, source: Source) -> ImageSpec:
    """The input takes bytes: it only changes its name."""
    check_hints(source, ("labels", "size"), "a graph that scales pixels itself")
    _batch, height, width, channels = shape_of(value)
    if channels not in CHANNELS:
        raise ModelError(
            f"{source.origin}: its input {value.name!r} is uint8 {shape_of(value)}: the last of these should be the "
            "channels, 1 or 3, as images are decoded."
        )
    image = _spec(source, (height, width), channels)
    _declare(edit, image)
    edit.before("Identity", ["pixels"], edit.feed(value.name))
    return image


def _scaled(edit: GraphEdit, value: onnx.ValueInfoProto, source: Source) -> ImageSpec:
    """The input takes numbers: bytes become these inside."""
    check_float32(value, source.origin)
    shape = shape_of(value)
    channels_first = shape[1] in CHANNELS
    channels = shape[1] if channels_first else shape[3]
    if channels not in CHANNELS:
        raise ModelError(
            f"{source.origin}: its input {value.name!r} has the shape {shape}; neither the second nor the last of "
            "these is a number of channels, 1 or 3."
        )
    image = _spec(source, shape[2:] if channels_first else shape[1:3], channels)
    pixels = _pixel_input(source, image)
    _declare(edit, pixels.image)
    inner, raw = edit.feed(value.name), "pixels"
    if channels_first:  # while they are bytes, as in pixel_graph
        raw = edit.before("Transpose", [raw], "millrace.planes", perm=[0, 3, 1, 2])
    factors = (-1, 1, 1) if channels_first else (-1,)
    centre = edit.constant("centre", np.array(pixels.centre, np.float32).reshape(factors))
    scale = edit.constant("scale", np.array(pixels.scale, np.float32).reshape(factors))
    numbers = edit.before("Cast", [raw], "millrace.numbers", to=TensorProto.FLOAT)
    edit.before("Mul", [edit.before("Sub", [numbers, centre], "millrace.centred"), scale], inner)
    return pixels.image


def _declare(edit: GraphEdit, image: ImageSpec) -> None:
    edit.declare("pixels", TensorProto.UINT8, ["N", image.height, image.width, image.channels])


def _spec(source: Source, in_graph: Shape, channels: int) -> ImageSpec:
    """The size that the graph, or else the user says."""
    hinted = source.hints.size or (None, None)
    height, width = (given or asked for given, asked in zip(in_graph, hinted, strict=True))
    if height is None or width is None:
        raise ModelError(f"{source.origin}: the graph takes images of any size. Say which: --size 224 or 224x256.")
    if source.hints.size not in (None, (height, width)):
        raise ModelError(f"{source.origin}: the graph takes images of {height}x{width} alone. Leave --size out.")
    return ImageSpec(
        height=height,
        width=width,
        channels=1 if channels == 1 else 3,
        resize=round(min(height, width) * RESIZE),
        interpolation="bilinear",
    )


def _pixel_input(source: Source, image: ImageSpec) -> PixelInput:
    """The scaling that the user says, or else the file that Hugging Face's processors write beside the model."""
    hints, channels = source.hints, image.channels
    if hints.mean is not None and hints.std is not None:
        mean, std = per_channel(hints.mean, channels), per_channel(hints.std, channels)
        return PixelInput(image=image, mean=mean, std=std)
    folder = source.path.parent if source.path is not None else None
    if folder is None or not any((folder / name).is_file() for name in FILES):
        raise ModelError(
            f"{source.origin}: nobody says how its pixels are scaled. Give --mean and --std (of pixels in [0, 1]), "
            "such as --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225; 0 and 1 for [0, 1] itself."
        )
    found = with_hints(read_pixel_input(folder, channels=channels, default_size=min(image.height, image.width)), hints)
    if (found.image.height, found.image.width) != (image.height, image.width):
        raise ModelError(
            f"{source.origin}: the graph takes {image.height}x{image.width}, and {folder / FILES[0]} says "
            f"{found.image.height}x{found.image.width}. Give --size, --mean and --std instead of that file."
        )
    return found


def _give_logits(edit: GraphEdit, where: str) -> None:
    ranked = {name: value for name, value in edit.outputs.items() if len(shape_of(value)) == 2}
    chosen = ranked.get("logits") or (next(iter(ranked.values())) if len(ranked) == 1 else None)
    if chosen is None:
        shapes = ", ".join(f"{name} {shape_of(value)}" for name, value in edit.outputs.items())
        raise ModelError(f"{where}: a classifier gives one score a class, [N, classes]; this gives {shapes}.")
    check_float32(chosen, where)
    maker = edit.producer(chosen.name)
    # The task makes probabilities of the logits itself; twice would flatten them.
    tensor = maker.input[0] if maker is not None and maker.op_type == "Softmax" else chosen.name
    edit.give(tensor, "logits", shape_of(chosen)[1])
