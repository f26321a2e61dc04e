"""Transfer methods, one file each, by the name that settings give them."""

from .base import Method
from .cotrain import Cotrain
from .finetune import Finetune
from .mixup import Mixup
from .xmixup import XMixup

METHODS: dict[str, type[Method]] = {"finetune": Finetune, "mixup": Mixup, "xmixup": XMixup, "cotrain": Cotrain}
"""By name; :class:`xmixup_fast.settings.Settings` lists the same names."""

__all__ = ["METHODS", "Method"]
