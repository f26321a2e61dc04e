"""Prints what a run on a GPU is measured with, as JSON: the device, versions, and what `xmixup info` says.

Ends with a message where there is no GPU, or none that the kernels of this build run on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time

import torch

from xmixup_fast.commands.info import collect
from xmixup_fast.runtime.device import usable_device


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True, choices=("cuda", "cpu"))
    device = parser.parse_args().device
    try:
        usable_device(device)
    except ValueError as error:
        sys.exit(str(error))
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {platform.machine()}"
    found = {
        "device": name,
        "cuda": device == "cuda",
        "cores": len(os.sched_getaffinity(0)),
        "cuDNN": torch.backends.cudnn.version(),
        "date": time.strftime("%Y-%m-%d"),
        "info": collect(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
