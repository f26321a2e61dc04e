"""A network for images of 32 pixels, which timm has none of: known to timm by its name once this module is imported."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

default_cfgs = generate_default_cfgs(
    {
        "resnet8_32px": {
            "input_size": (3, 32, 32),
            "pool_size": (4, 4),
            "num_classes": 1000,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "first_conv": "stem.conv",
            "classifier": "head.fc",
        }
    }
)
"""What timm's decorator looks for under this name. Mean and deviation are about those of photographs."""

_STAGES = ((24, 1), (48, 2), (96, 2))
"""Channels and stride of each stage, which is one block. The stem has a stride of 2, and no pooling follows it."""


@register_model  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def resnet8_32px(pretrained: bool = False, **kwargs: Any) -> Any:
    """A residual network (He et al. 2015, arXiv 1512.03385) of eight layers and 172,000 parameters for 10 classes.

    It sees 32 x 32 pixels as 16 x 16, 8 x 8 and 4 x 4 positions, at 7 million multiplications. There are no pretrained
    weights.
    """
    blocks = tuple(ByoBlockCfg(type="basic", d=1, c=channels, s=stride, gs=0, br=1.0) for channels, stride in _STAGES)
    config = ByoModelCfg(blocks=blocks, stem_chs=24, stem_pool="")
    return build_model_with_cfg(  # type: ignore[no-untyped-call, unused-ignore]
        ByobNet, "resnet8_32px", pretrained, model_cfg=config, feature_cfg={"flatten_sequential": True}, **kwargs
    )
