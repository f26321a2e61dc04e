"""What bench/gpu.py runs on a machine with a GPU: the parts, in the order of their importance, each with a limit."""

from __future__ import annotations

from dataclasses import dataclass

TOTAL = 480
"""Seconds in which all of it has to end."""
LEAST = 8
"""Seconds below which no part is begun: a process takes that long to import torch and to find the GPU."""


@dataclass(frozen=True)
class Part:
    """A process of Python with a limit."""

    name: str
    what: str
    """A line for the report."""
    limit: int
    """Seconds after which it is stopped; what it has reported until then is kept."""
    command: tuple[str, ...]
    """Arguments of Python: a module of benchmarks, or pytest."""

    @property
    def is_tests(self) -> bool:
        return self.command[:2] == ("-m", "pytest")


def _tests(*arguments: str) -> tuple[str, ...]:
    """A run of the GPU tests among those that are named; their outcomes are reported one by one."""
    own = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "gpu_runs.outcomes", "-m", "gpu")
    return (*own, *arguments)


CALLS = "tests/ops/test_kernel_calls.py"

PARTS = (
    Part(
        "operators",
        "kernels run on torch's current stream, and every kernel gives the CPU's results",
        30,
        _tests("tests/runtime/test_drivers.py", CALLS, "-k", "runs_the_kernels or every_kernel or valid_values"),
    ),
    Part("kernels", "times of copies, `mix`, `mix_plan`, `draw` and the loss", 60, ("-m", "gpu_runs.kernels")),
    Part(
        "streams",
        "the CPU's bits, streams, graphs, memory, no waiting",
        50,
        _tests("tests/ops/test_gpu.py", "tests/data/test_streams_on_gpu.py", "tests/training/test_cuda_graph.py"),
    ),
    Part("steps", "times of training steps", 110, ("-m", "gpu_runs.steps")),
    Part(
        "training",
        "whole runs and steps of every method: no waiting, the CPU's losses, graphs",
        60,
        _tests("-n", "4", "tests/training/test_gpu_training.py"),
    ),
    Part("runs", "whole runs on JPEG files, resident and streamed", 40, ("-m", "gpu_runs.runs")),
    Part(
        "suites",
        "the operators' own tests",
        90,
        _tests("-n", "8", "tests/ops", f"--ignore={CALLS}", "--ignore=tests/ops/test_gpu.py"),
    ),
    Part("asserts", "every wrong value stops a kernel with its message", 40, _tests(CALLS, "-k", "wrong_value")),
    Part("sanitizer", "compute-sanitizer's memcheck and racecheck", 240, _tests(CALLS, "-k", "sanitizer")),
)
