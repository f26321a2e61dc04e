"""Transfer methods, one file each, by the name that settings give them."""

from .base import Method
from .bituning import Bituning
from .bss import BSS
from .cotrain import Cotrain
from .cotuning import Cotuning
from .cutmix import Cutmix
from .delta import Delta
from .finetune import Finetune
from .l2sp import L2SP
from .linear_probe import LinearProbe
from .lwf import LWF
from .mixup import Mixup
from .rifle import Rifle
from .seqtrain import Seqtrain
from .stochnorm import Stochnorm
from .xcutmix import XCutmix
from .xmixup import XMixup

METHODS: dict[str, type[Method]] = {
    "finetune": Finetune,
    "linear-probe": LinearProbe,
    "delta": Delta,
    "bss": BSS,
    "rifle": Rifle,
    "stochnorm": Stochnorm,
    "bituning": Bituning,
    "mixup": Mixup,
    "cutmix": Cutmix,
    "cotuning": Cotuning,
    "lwf": LWF,
    "cotrain": Cotrain,
    "seqtrain": Seqtrain,
    "xmixup": XMixup,
    "xcutmix": XCutmix,
}
"""By name; :class:`xmixup_fast.settings.fields.Settings` lists the same names."""

REGULARIZERS: dict[str, type[L2SP]] = {"l2sp": L2SP}
"""By name; a run has one of them or none."""

__all__ = ["L2SP", "METHODS", "REGULARIZERS", "Method"]
