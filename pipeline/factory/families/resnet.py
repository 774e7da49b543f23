"""ResNet of Hugging Face: an image classifier made of convolutions, with batch norms folded into these."""

from __future__ import annotations

from typing import Any

from pipeline.factory.exports.export import export_graph, import_framework
from pipeline.factory.exports.pretrained import load_pretrained
from pipeline.factory.family import IMAGE_HINTS, Family, Source, Workbench
from pipeline.factory.images.card import FP32, image_card, pixel_input_of
from pipeline.factory.sources.labels import labels_of
from pipeline.models.card import ModelCard

__all__ = ["FAMILY"]

ARCHITECTURES = ("ResNetForImageClassification",)


def _build(source: Source, bench: Workbench) -> ModelCard:
    pixels = pixel_input_of(source, default_size=224)
    model = load_pretrained(source)
    labels = labels_of(source, model.config.num_labels, model.config.id2label)
    bench.progress("exporting the FP32 graph")
    variant = export_graph(_logits_of(model), bench.folder / FP32, pixels=pixels, outputs=["logits"])
    description = f"ResNet of {sum(model.config.depths)} blocks, {len(labels)} classes."
    return image_card(source, bench, variant, pixels, labels, description=description)


def _logits_of(model: Any) -> Any:
    torch = import_framework("torch")

    class Logits(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, values: Any) -> Any:
            return self.model(pixel_values=values).logits

    return Logits()


FAMILY = Family(
    name="resnet",
    tasks=("image-classification",),
    architectures=ARCHITECTURES,
    hints=("labels", *IMAGE_HINTS),
    build=_build,
)
