"""The end that DETR and YOLOS share: candidates with logits and boxes become scores and corners."""

from __future__ import annotations

from typing import Any

from pipeline.factory.exports.export import export_graph, import_framework
from pipeline.factory.family import Source, Workbench
from pipeline.factory.images.card import FP32, image_card
from pipeline.factory.images.spec import PixelInput
from pipeline.factory.sources.labels import labels_of
from pipeline.models.card import DetectionSpec, ModelCard

__all__ = ["build_detector"]


def build_detector(source: Source, bench: Workbench, model: Any, pixels: PixelInput) -> ModelCard:
    """Write the graph of ``model``, a detector of transformers, and its card.

    The scores are the softmax over all classes with the last, "no object", left out; the boxes come as centre and size
    and leave as corners, cut at the image's edges. Carion et al., End-to-End Object Detection with Transformers (2020).
    """
    config, image = model.config, pixels.image
    labels = labels_of(source, config.num_labels, config.id2label)
    bench.progress("exporting the FP32 graph")
    variant = export_graph(_with_corners(model), bench.folder / FP32, pixels=pixels, outputs=["scores", "boxes"])
    description = f"{source.architecture} that reads {image.width} x {image.height} pixels."
    return image_card(source, bench, variant, pixels, labels, description=description, detection=DetectionSpec())


def _with_corners(model: Any) -> Any:
    torch = import_framework("torch")

    class WithCorners(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, values: Any) -> Any:
            found = self.model(pixel_values=values)
            centre, size = found.pred_boxes[..., :2], found.pred_boxes[..., 2:]
            corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
            return found.logits.softmax(-1)[..., :-1], corners.clamp(0, 1)

    return WithCorners()
