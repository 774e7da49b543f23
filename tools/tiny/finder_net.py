"""The DETR of `digit-finder-tiny` and its training (Carion et al. 2020): a small ResNet and nine queries of a scene.

DETR learns slowly for two reasons, and both are met before the training, in an ordinary DETR: its queries look anywhere
at first (here they start on a grid of 3 x 3 anchors, as in Wang et al. 2022), and its backbone is taken to be
pretrained (here its norms learn, and :mod:`tools.tiny.patches` teaches what the encoder says).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from tools.tiny.patches import SIDE, PatchTeacher
from tools.tiny.pixels import pixel_values
from tools.tiny.scenes import Ink, Scene, SceneRecipe, batches_of
from tools.tiny.training import FitRecipe, fit, quiet, tensor_of

__all__ = ["FINDER_FIT", "FINDER_SCENES", "train_finder"]

FINDER_SCENES = SceneRecipe(counts=(1, 4))
FINDER_FIT = FitRecipe(steps=3000, rows=64, learning_rate=1e-3, weight_decay=1e-4)
ANCHORS = 3


def train_finder(digits: Ink, recipe: FitRecipe, say: Callable[[str], None]) -> Any:
    """Train from scratch on scenes of ``digits`` and return the `DetrForObjectDetection`, ready to evaluate."""
    quiet()
    torch.manual_seed(recipe.seed)
    model = DetrForObjectDetection(_config())
    model.requires_grad_(True)  # transformers freezes the first stage of a ResNet, as if it were pretrained
    _replace_norms(model)
    _anchor_queries(model.model)
    model.patch_teacher = PatchTeacher(model.config.d_model)
    scenes = batches_of(digits, FINDER_SCENES, recipe.rows, recipe.seed)
    fit(model, lambda drawn: _loss(model, drawn), scenes, recipe, say)
    del model.patch_teacher
    return _as_loaded(model)


def _config() -> Any:
    backbone = ResNetConfig(
        embedding_size=32, hidden_sizes=[48, 96], depths=[1, 2], layer_type="basic", out_features=["stage2"]
    )
    return DetrConfig(
        backbone_config=backbone,
        num_queries=ANCHORS**2,
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        dropout=0.0,
        auxiliary_loss=True,
        eos_coefficient=0.2,
        id2label={digit: str(digit) for digit in range(10)},
        label2id={str(digit): digit for digit in range(10)},
    )


def _loss(model: Any, scenes: Sequence[Scene]) -> Any:
    labels = [{"class_labels": torch.tensor(scene.labels), "boxes": tensor_of(scene.boxes)} for scene in scenes]
    outputs = model(pixel_values=pixel_values(scenes), labels=labels)
    return outputs.loss + 2 * model.patch_teacher(outputs.encoder_last_hidden_state, scenes)


def _replace_norms(module: Any) -> None:
    """Batch norms that learn in the place of the frozen ones, which are for pretrained backbones; same names inside."""
    for name, child in module.named_children():
        if type(child).__name__ == "DetrFrozenBatchNorm2d":
            setattr(module, name, nn.BatchNorm2d(len(child.weight)))
        else:
            _replace_norms(child)


def _anchor_queries(model: Any) -> None:
    """Each query starts as the position of an anchor, and looks for positions that are like its own."""
    size = torch.Size([1, model.config.d_model, SIDE, SIDE])
    positions = model.position_embedding(shape=size, device=torch.get_default_device(), dtype=torch.float32)
    anchors = functional.adaptive_avg_pool2d(positions, ANCHORS).flatten(2)[0].T
    with torch.no_grad():
        model.query_position_embeddings.weight.copy_(anchors)
        for layer in model.decoder.layers:
            layer.encoder_attn.k_proj.weight.copy_(layer.encoder_attn.q_proj.weight)


def _as_loaded(model: Any) -> Any:
    """The same weights with the norms frozen again, as transformers will load them."""
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    plain = DetrForObjectDetection(model.config)
    plain.load_state_dict(state)
    return plain.eval()
