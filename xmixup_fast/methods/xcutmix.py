"""XMixup with CutMix's box (Yun et al. 2019, arXiv 1905.04899) in place of a blend: our own combination."""

from __future__ import annotations

from .xmixup import XMixup


class XCutmix(XMixup):
    """XMixup's loss, where a box shows the auxiliary image and lam is the share of the image outside of the box."""

    box = True
