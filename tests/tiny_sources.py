"""A tiny model of every family with random weights, as its framework saves it: what a test builds from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from tests.unit.pipeline.factory.families.decoders import save_model

__all__ = ["TINY_SOURCES"]

SIDE, LENGTH, VOCABULARY = 32, 48, 300
HIDDEN, HEADS = 32, 2
PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": {"height": SIDE, "width": SIDE},
}
ENCODER = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * HIDDEN,
}
POOLING = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def _gpt2(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=1, n_embd=HIDDEN, n_head=HEADS, n_positions=LENGTH, vocab_size=VOCABULARY,
        bos_token_id=256, eos_token_id=257,
    )  # fmt: skip
    return save_model(GPT2LMHeadModel(config), folder)


def _llama_config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        **ENCODER, num_key_value_heads=1, vocab_size=VOCABULARY, max_position_embeddings=LENGTH,
        bos_token_id=256, eos_token_id=257,
    )  # fmt: skip


def _llama(folder: Path) -> Path:
    from transformers import LlamaForCausalLM

    return save_model(LlamaForCausalLM(_llama_config()), folder)


def _bert(folder: Path) -> Path:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**ENCODER, vocab_size=VOCABULARY, max_position_embeddings=LENGTH, num_labels=3)
    return _with_ends(save_model(BertForSequenceClassification(config), folder))


def _roberta(folder: Path) -> Path:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        **ENCODER, vocab_size=VOCABULARY, max_position_embeddings=LENGTH, num_labels=3, pad_token_id=1
    )
    return _with_ends(save_model(RobertaForSequenceClassification(config), folder))


def _distilbert(folder: Path) -> Path:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        dim=HIDDEN, n_layers=1, n_heads=HEADS, hidden_dim=2 * HIDDEN, vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH, num_labels=3,
    )  # fmt: skip
    return _with_ends(save_model(DistilBertForSequenceClassification(config), folder))


def _minilm(folder: Path) -> Path:
    from transformers import BertConfig, BertModel

    config = BertConfig(**ENCODER, vocab_size=VOCABULARY, max_position_embeddings=LENGTH)
    _with_ends(save_model(BertModel(config), folder))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(POOLING))
    (folder / "modules.json").write_text(json.dumps(MODULES))
    return folder


def _resnet_config(**more: Any) -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **more)


def _resnet(folder: Path) -> Path:
    from transformers import ResNetForImageClassification

    return _with_processor(save_model(ResNetForImageClassification(_resnet_config(num_labels=3)), folder))


def _torchvision(folder: Path) -> Path:
    """The checkpoint of the smallest of torchvision's classifiers."""
    from safetensors.torch import save_file
    from torchvision.models import squeezenet1_1

    folder.mkdir()
    save_file(squeezenet1_1(num_classes=3).state_dict(), folder / "squeezenet1_1.safetensors")
    return folder / "squeezenet1_1.safetensors"


def _vit(folder: Path) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**ENCODER, image_size=SIDE, patch_size=16, num_labels=3)
    return _with_processor(save_model(ViTForImageClassification(config), folder))


def _detr(folder: Path) -> Path:
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(
        backbone_config=_resnet_config(out_features=["stage2"]), use_timm_backbone=False, use_pretrained_backbone=False,
        d_model=HIDDEN, encoder_layers=1, decoder_layers=1, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN, num_queries=5, num_labels=3,
    )  # fmt: skip
    return _with_processor(save_model(DetrForObjectDetection(config), folder))


def _yolos(folder: Path) -> Path:
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(**ENCODER, image_size=[SIDE, SIDE], patch_size=16, num_detection_tokens=5, num_labels=3)
    return _with_processor(save_model(YolosForObjectDetection(config), folder))


def _clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    text = {
        **ENCODER,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": LENGTH,
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    vision = {**ENCODER, "image_size": SIDE, "patch_size": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return _with_processor(_with_ends(save_model(CLIPModel(config), folder)))


def _llava(folder: Path) -> Path:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(**{**ENCODER, "num_hidden_layers": 2}, image_size=SIDE, patch_size=16)
    config = LlavaConfig(vision_config=vision, text_config=_llama_config(), image_token_id=258, image_seq_length=4)
    return _with_processor(save_model(LlavaForConditionalGeneration(config), folder))


def _with_ends(folder: Path) -> Path:
    """An encoder's tokenizer puts a token at both ends of a text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = [("<s>", 256), ("</s>", 257)]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $0 </s>", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _with_processor(folder: Path) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


TINY_SOURCES: dict[str, Callable[[Path], Path]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "bert": _bert,
    "roberta": _roberta,
    "distilbert": _distilbert,
    "minilm": _minilm,
    "resnet": _resnet,
    "torchvision": _torchvision,
    "vit": _vit,
    "detr": _detr,
    "yolos": _yolos,
    "clip": _clip,
    "llava": _llava,
}
"""Each writes its model into a new folder and returns what to build from."""
