"""Fine-tune a pretrained network on labelled images.

xmixup train
    the embedded demo: fine-tuning, XMixup and a recipe side by side, in a minute or two, with nothing to download

xmixup train photos/
    XMixup on a folder of class folders, with the default network and source; what would be downloaded is said first

xmixup train photos/ --source imagenet/train/ --model resnet50
    with ImageNet as its source, class folders named by WordNet ids

xmixup train --target torchvision:Flowers102:data --source 'shards/train-{000..012}.tar' more/ --model resnet50
    target and source as tables, tar shards, published or Hugging Face datasets; several sources at once

xmixup train --config runs/NAME/config.yaml --seed 1 --output runs/again
    a run again, with another seed

--profile tells where a step's time goes. xmixup find-lr with the same flags suggests a learning rate; xmixup evaluate,
predict and export take the folder of a run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .cli import exit_status, parse_settings
from .runtime.openmp import set_environment
from .runtime.process import run_process


def main(arguments: Sequence[str] | None = None, prog: str = "python -m xmixup_fast.train") -> int:
    """Runs the command; returns its exit status, 2 for an error that the user can mend."""
    set_environment()
    given = sys.argv[1:] if arguments is None else arguments

    def work() -> None:
        # What needs torch is imported late, so that --help need not wait for it.
        if not given:
            from .demo import main as demo

            demo()
            return
        settings = parse_settings(given, prog, __doc__)
        from .training.run import fit

        fit(settings)

    return exit_status(work)


if __name__ == "__main__":
    run_process(main)
