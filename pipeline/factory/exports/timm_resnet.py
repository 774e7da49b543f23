"""DETR's backbone by another name: timm's ResNet as the same network of transformers.

The first DETR checkpoints name their backbone's layers as timm (and torchvision) do, and say no more of it than a name
such as ``resnet50``. transformers would need timm for these; the layers are the same as its own ResNet's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ModelError

__all__ = ["backbone_of_timm", "rename_timm_weights"]

# He et al., Deep Residual Learning for Image Recognition (2015), table 1.
DEPTHS = {
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
    "resnet101": ("bottleneck", [3, 4, 23, 3]),
    "resnet152": ("bottleneck", [3, 8, 36, 3]),
}
LAYER = re.compile(
    r"(?P<prefix>model\.backbone\.(?:conv_encoder\.)?model\.)"
    r"(?:layer(?P<stage>\d)\.(?P<layer>\d+)\.)?"
    r"(?:(?P<kind>conv|bn)(?P<part>\d)|downsample\.(?P<shortcut>[01]))\.(?P<rest>.+)"
)


def backbone_of_timm(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The ``backbone_config`` of a DETR config whose backbone is timm's; ``None`` where it is transformers' own.

    Raises:
        ModelError: a backbone that is not one of the ResNets, or one that is dilated.
    """
    given = config.get("backbone_config") or {}
    if given and given.get("model_type") != "timm_backbone":
        return None
    if not given and not config.get("use_timm_backbone", True):
        raise ModelError("the config names a backbone and does not describe it. Add its `backbone_config`.")
    name = str(given.get("backbone") or config.get("backbone") or "resnet50").partition(".")[0]
    dilated = config.get("dilation") or given.get("output_stride") not in (None, 32)
    if name not in DEPTHS or dilated:
        what = f"a dilated {name}" if dilated else name
        raise ModelError(f"its backbone is timm's {what}; of these {', '.join(DEPTHS)} are built, not dilated.")
    kind, depths = DEPTHS[name]
    widths = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
    return {
        "model_type": "resnet",
        "num_channels": config.get("num_channels", 3),
        "layer_type": kind,
        "depths": depths,
        "hidden_sizes": widths,
        "out_features": ["stage4"],
    }


def rename_timm_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """``weights`` of a DETR with the backbone's layers named as transformers' ResNet names them."""
    return {_renamed(name): tensor for name, tensor in weights.items()}


def _renamed(name: str) -> str:
    found = LAYER.fullmatch(name)
    if found is None:
        return name
    kind = "convolution" if "conv" in (found["kind"] or "") or found["shortcut"] == "0" else "normalization"
    if found["stage"] is None:
        place = "embedder.embedder"
    else:
        part = "shortcut" if found["shortcut"] else f"layer.{int(found['part']) - 1}"
        place = f"encoder.stages.{int(found['stage']) - 1}.layers.{found['layer']}.{part}"
    return f"{found['prefix']}{place}.{kind}.{found['rest']}"
