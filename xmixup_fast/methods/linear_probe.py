"""A linear probe (Alain & Bengio 2016, arXiv 1610.01644): a new head on the frozen pretrained features, and no step."""

from __future__ import annotations

from ..models.classifiers import check_linear
from ..models.network import Network
from ..settings.fields import Settings
from .finetune import Finetune


class LinearProbe(Finetune):
    """Logistic regression of the target classes on the features of unmixed training images, by scikit-learn.

    The run fits the head as ``head_init`` probe does before training (training/head_fit.py), and ends there.
    """

    takes_steps = False

    def __init__(self, settings: Settings, network: Network) -> None:
        super().__init__(settings, network)
        check_linear("method: linear-probe", network.body, network.model_name)
