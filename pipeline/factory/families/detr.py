"""DETR: a ResNet and a transformer whose queries each find an object.

Hugging Face's processor keeps an image's proportions (shorter side 800, longer at most 1333) and pads a batch to its
largest image, so sizes differ from image to image; a graph reads one size, and the image is stretched to it. It is the
square of the side that ``preprocessor_config.json`` has as ``shortest_edge``, its ``height`` and ``width``, or what the
user asks for. Boxes are shares of the sides, so they need no correction; objects that look narrower than they are found
a little less surely.
"""

from __future__ import annotations

from typing import Any

from pipeline.errors import ModelError
from pipeline.factory.exports.detector import build_detector
from pipeline.factory.exports.export import import_framework
from pipeline.factory.exports.pretrained import load_pretrained
from pipeline.factory.exports.timm_resnet import backbone_of_timm, rename_timm_weights
from pipeline.factory.family import IMAGE_HINTS, Family, Source, Workbench
from pipeline.factory.images.card import pixel_input_of
from pipeline.factory.images.spec import PixelInput
from pipeline.factory.sources.safetensors_file import read_safetensors
from pipeline.models.card import ModelCard

__all__ = ["FAMILY", "load_detr"]

ARCHITECTURES = ("DetrForObjectDetection",)
TIMM = ("backbone", "backbone_kwargs", "use_pretrained_backbone")


def load_detr(source: Source) -> Any:
    """The model; a backbone of timm's becomes the same one of transformers'. Raises ModelError."""
    try:
        backbone = backbone_of_timm(source.config)
    except ModelError as error:
        raise ModelError(f"{source.origin}: {error}") from error
    if backbone is None:
        return load_pretrained(source)
    torch = import_framework("torch")
    config = {key: value for key, value in source.config.items() if key not in TIMM}
    tensors = read_safetensors(source.folder)
    weights = {name: torch.from_numpy(tensors[name].copy()) for name in tensors}
    own = config | {"backbone_config": backbone, "use_timm_backbone": False}
    return load_pretrained(source, own, rename_timm_weights(weights))


def _build(source: Source, bench: Workbench) -> ModelCard:
    pixels = pixel_input_of(source)
    model = load_detr(source)
    _without_padding(model.model, pixels)
    return build_detector(source, bench, model, pixels)


def _without_padding(model: Any, pixels: PixelInput) -> None:
    """Images of one size have no padding: the mask goes, and the positions are the same for every image."""
    torch = import_framework("torch")

    class Unmasked(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            masks = {"attention_mask": None, "encoder_attention_mask": None}
            return self.inner(*args, **{key: masks.get(key, value) for key, value in kwargs.items()})

    class Positions(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, positions: Any) -> None:
            super().__init__()
            self.register_buffer("positions", positions)

        def forward(self, **_: Any) -> Any:
            return self.positions

    image = pixels.image
    with torch.no_grad():
        blank, mask = (
            torch.zeros(1, image.channels, image.height, image.width),
            torch.ones(1, image.height, image.width),
        )
        features, seen = model.backbone(blank, mask)[-1]
        positions = model.position_embedding(shape=features.shape, device="cpu", dtype=torch.float32, mask=seen)
    model.position_embedding = Positions(positions)
    model.encoder, model.decoder = Unmasked(model.encoder), Unmasked(model.decoder)


FAMILY = Family(
    name="detr",
    tasks=("object-detection",),
    architectures=ARCHITECTURES,
    hints=("labels", *IMAGE_HINTS),
    build=_build,
)
