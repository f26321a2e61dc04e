"""CutMix within the batch (Yun, Han, Oh, Chun, Choe, Yoo 2019, arXiv 1905.04899): a box of the partner's image."""

from __future__ import annotations

from .mixup import Mixup


class Cutmix(Mixup):
    """Mixup's loss, where the box shows the partner and lam is the share of the image outside of the box.

    The area is drawn as XMixup's weights are; the paper draws it uniformly (alpha 1, no folding). The part of a box
    outside of the image is cut off.
    """

    box = True
