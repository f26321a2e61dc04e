"""Fine-tune a pretrained network on labelled images.

python -m xmixup_fast.train
    the embedded default: fine-tuning and XMixup side by side, in a minute or two, with nothing to download

python -m xmixup_fast.train --target photos/ --source imagenet/train/ --model resnet50
    XMixup with ImageNet as its source, class folders named by WordNet ids

python -m xmixup_fast.train --target torchvision:Flowers102:data --source 'shards/train-{000..012}.tar' more/ ...
    target and source as tables, tar shards, published or Hugging Face datasets; several sources at once

python -m xmixup_fast.train --config runs/NAME/config.yaml --seed 1 --output runs/again
    a run again, with another seed

--find-lr only suggests a learning rate, as python -m xmixup_fast.find_lr does. --profile tells where a step's time
goes. python -m xmixup_fast.predict and python -m xmixup_fast.export take a run's folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .cli import command
from .settings.fields import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 2 for what the user can mend."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        from .demo import main as demo

        demo()
        return 0
    others = [flag for flag in arguments if flag not in ("--find-lr", "--find_lr")]
    if len(others) < len(arguments):
        from .find_lr import main as find_lr

        return find_lr(others)
    return command(_fit, arguments, "python -m xmixup_fast.train", __doc__)


def _fit(settings: Settings) -> None:
    from .training.run import fit  # late, so that --help need not wait for timm

    fit(settings)


if __name__ == "__main__":
    sys.exit(main())
