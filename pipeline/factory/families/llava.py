"""LLaVA: a CLIP or SigLIP tower before a Llama, Mistral or Qwen; it answers questions about an image."""

from __future__ import annotations

from msgspec.structs import replace
from tokenizers import Tokenizer

from pipeline.errors import ModelError
from pipeline.factory.decoders.file import write_fp32
from pipeline.factory.decoders.llava_parts import (
    LlavaConfig,
    decoder_spec,
    decoder_weights,
    read_llava,
    vision_graph,
    vision_weights,
)
from pipeline.factory.decoders.text import read_text_spec, text_files
from pipeline.factory.decoders.vision import build_vision
from pipeline.factory.encoders.file import write_graph
from pipeline.factory.family import IMAGE_HINTS, Family, Source, Workbench
from pipeline.factory.images.card import with_hints
from pipeline.factory.images.spec import read_pixel_input
from pipeline.factory.sources.safetensors_file import Tensors, read_safetensors
from pipeline.factory.sources.tokenizer import TOKENIZER
from pipeline.models.card import ImageSpec, ModelCard, TextSpec, Variant, VisionSpec

__all__ = ["FAMILY"]

ARCHITECTURES = ("LlavaForConditionalGeneration",)


def _build(source: Source, bench: Workbench) -> ModelCard:
    config = read_llava(source.config, source.origin)
    tensors = read_safetensors(source.folder)
    bench.progress("writing the FP32 graph of the decoder")
    spec = decoder_spec(config, tensors, source.origin)
    decoder = write_fp32(spec, decoder_weights(tensors, spec, source.origin), bench.folder)
    text = read_text_spec(source, bench, spec)
    bench.progress("writing the FP32 graph of the images")
    variant, image, rows = _write_vision(config, tensors, source, bench, decoder)
    vision = VisionSpec(
        image_token=_image_token(config, source, bench),
        image_token_id=config.image_token_id,
        image_tokens=rows,
        hidden=spec.hidden,
    )
    return _card(source, bench, variant, text, image, vision)


def _write_vision(
    config: LlavaConfig, tensors: Tensors, source: Source, bench: Workbench, decoder: Variant
) -> tuple[Variant, ImageSpec, int]:
    """The variant with its vision graph, the images that this reads, and the rows that it makes of one."""
    tower = config.vision_config
    read = read_pixel_input(source.folder, channels=tower.num_channels, default_size=tower.image_size)
    pixels = with_hints(read, source.hints)
    graph = vision_graph(config, pixels, source.origin)
    weights = vision_weights(tensors, config, graph, source.origin)
    parts = write_graph(lambda: build_vision(graph, weights), bench.folder / "fp32.vision.onnx", None, "vision")
    return replace(decoder, parts=decoder.parts | parts), pixels.image, graph.rows


def _image_token(config: LlavaConfig, source: Source, bench: Workbench) -> str:
    token = Tokenizer.from_file(str(bench.folder / TOKENIZER)).id_to_token(config.image_token_id)
    if token is None:
        raise ModelError(
            f"{source.origin}: the tokenizer has no token {config.image_token_id}, which config.json says stands for "
            "an image. Add it as a special token."
        )
    return str(token)


def _card(
    source: Source, bench: Workbench, variant: Variant, text: TextSpec, image: ImageSpec, vision: VisionSpec
) -> ModelCard:
    return ModelCard(
        name=bench.name,
        version=bench.version,
        task="image-to-text",
        description=f"{source.architecture} of {text.layers} layers, {vision.image_tokens} rows an image.",
        license=source.license,
        source=source.origin,
        variants={"fp32": variant},
        text=text,
        image=image,
        vision=vision,
        files=text_files(bench.folder),
    )


FAMILY = Family(
    name="llava",
    tasks=("image-to-text",),
    architectures=ARCHITECTURES,
    hints=("tokenizer", *IMAGE_HINTS),
    build=_build,
)
