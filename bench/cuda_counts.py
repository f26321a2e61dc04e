"""What nvcc makes of the CUDA kernels, counted: the table of docs/cuda.md.

    python bench/cuda_counts.py [--arch 90]

Needs nvcc and nvdisasm, of the CUDA toolkit or `pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm`; no GPU.
"""

from __future__ import annotations

import argparse
import heapq
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
NVIDIA = importlib.util.find_spec("nvidia")
PACKAGES = [f"{place}/cu13/bin" for place in (NVIDIA and NVIDIA.submodule_search_locations) or ()]
PLACES = os.pathsep.join([os.environ["PATH"], "/usr/local/cuda/bin", *PACKAGES])
NVCC, NVDISASM = (shutil.which(tool, path=PLACES) for tool in ("nvcc", "nvdisasm"))
STORED = {"STG.E.U16": 2, "STG.E": 4, "STG.E.64": 8, "STG.E.128": 16}
"""Bytes that a store instruction writes."""

KERNEL = re.compile(r"mix_kernelI(?:f|N\w*?\d(BFloat16|Float16)E)Lb([01])ELi(\d)E")
"""The symbol of a kernel of `mix`: dtype where it is not float32, whether channels_last, elements written at a time."""


@dataclass(frozen=True)
class MixCount:
    """What a thread of a kernel of `mix` runs where two images are blended."""

    dtype: str
    layout: str
    path: str  # "crop", or "resampled"
    columns: int  # made together
    rows: int  # that a thread makes: kRows in csrc/cuda/mix.cu
    registers: int
    once: int  # instructions outside of the loop over rows
    row: float  # instructions a row
    loads: float  # a row, of a byte each
    stores: float  # a row
    store_bits: int

    @property
    def row_pixels(self) -> float:
        return self.columns / (3 if self.layout == "channels_last" else 1)

    @property
    def per_pixel(self) -> float:
        """Instructions."""
        return (self.row + self.once / self.rows) / self.row_pixels

    @property
    def blocks(self) -> int:
        """Blocks of 128 threads that a multiprocessor's 65536 registers hold."""
        return 65536 // (128 * -(-self.registers // 8) * 8)


def compile_source(source: str, output: Path, *flags: str) -> str:
    """Compiles one file of csrc/cuda, and returns what nvcc and ptxas say of it."""
    include = Path(torch.__file__).parent / "include"
    defines = ["-DTORCH_TARGET_VERSION=0x020d000000000000", "-DNDEBUG"]
    command = [NVCC, "-std=c++17", "-O3", *defines, f"-I{include}", "-Xptxas=-v", *flags]
    done = subprocess.run(
        [*command, str(ROOT / "csrc/cuda" / source), "-o", str(output)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stdout + done.stderr


class Code:
    """The instructions of one kernel, and where each may go on."""

    def __init__(self, listing: str) -> None:
        self.instructions: list[str] = []
        places: dict[str, int] = {}
        for line in listing.splitlines():
            if label := re.match(r"(\.L_\w+):", line):
                places[label[1]] = len(self.instructions)
            elif instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
                self.instructions.append(instruction[1])
        self.next: list[list[int]] = []
        meetings = [
            (i, *re.findall(r"(B\d+), `\((\.L_\w+)\)", text)[0])
            for i, text in enumerate(self.instructions)
            if self.name(i).startswith("BSSY")
        ]
        for i, text in enumerate(self.instructions):
            target = re.search(r"`\((\.L_\w+)\)", text)
            name = self.name(i)
            if name.startswith("BRA") and target:
                # A branch with a predicate, before it or among its operands, may also not be taken.
                falls = text.startswith("@") or re.search(r"BRA(\.\w+)* !?U?P\d", text)
                self.next.append([places[target[1]], *([i + 1] if falls else [])])
            elif name.startswith("BSYNC"):
                # Threads that parted meet where the last BSSY of that name said.
                self.next.append([places[max(m for m in meetings if m[1] == text.split()[-1] and m[0] < i)[2]]])
            elif name.startswith("EXIT"):
                self.next.append([i + 1] if text.startswith("@") else [])
            elif name.startswith("CALL.ABS"):
                self.next.append([])  # an assert
            else:
                self.next.append([i + 1])

    def name(self, i: int) -> str:
        """An instruction without predicate and operands."""
        return re.sub(r"^@!?U?P\w+\s+", "", self.instructions[i]).split()[0]

    def names(self, begin: int, end: int) -> Counter[str]:
        return Counter(self.name(i) for i in range(begin, end))

    def loops(self) -> list[tuple[int, int]]:
        """First instruction of each loop, and the one after its last."""
        return [
            (to, i + 1) for i, nexts in enumerate(self.next) for to in nexts if to < i and self.name(i)[:3] == "BRA"
        ]

    def fewest(self, begin: int, end: int) -> int:
        """Instructions from one place to another on the shortest way: the one on which no check fails."""
        heap, seen = [(0, begin)], set()
        while heap:
            steps, i = heapq.heappop(heap)
            if i == end:
                return steps
            if i in seen or i >= len(self.next):
                continue
            seen.add(i)
            for to in self.next[i]:
                heapq.heappush(heap, (steps + 1, to))
        raise ValueError(f"no way from {begin} to {end}")


def count_mix(arch: str, folder: Path) -> list[MixCount]:
    """Every kernel, with and without resampling. Leaves mix.ptx in the folder."""
    cubin = folder / "mix.cubin"
    log = compile_source("mix.cu", cubin, "-cubin", f"-arch=sm_{arch}", "--keep", f"--keep-dir={folder}")
    listing = subprocess.run([NVDISASM, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    registers = dict(re.findall(r"entry function '(\S+)'[\s\S]*?Used (\d+) registers", log))
    counts: dict[tuple[str, ...], MixCount] = {}
    for part in re.split(r"\n\.text\.", listing)[1:]:
        symbol = part.split(":", 1)[0]
        kernel = KERNEL.search(symbol)
        assert kernel, symbol
        dtype, size = (kernel[1].lower(), 2) if kernel[1] else ("float32", 4)
        planes = 1 if kernel[2] == "1" else 3
        code = Code(part)
        loops = code.loops()
        for begin, end in loops:
            names = code.names(begin, end)
            stores = {name: n for name, n in names.items() if name.startswith("STG")}
            if len(stores) != 1 or any(a >= begin and b <= end for a, b in loops if (a, b) != (begin, end)):
                continue  # not the innermost loop that writes pixels
            ((store, times),) = stores.items()
            width = STORED[store.removesuffix(".STRONG.SM")]
            elements, loads = times * width // size, names["LDG.E.U8.CONSTANT"]
            if names["FFMA"] != loads:
                continue  # shows one image in a box: fewer multiply-adds, since it reads one of two bytes
            columns = width // size
            # Planes are a loop of their own inside that over rows, or the loop over rows has all their stores.
            outer = [(a, b) for a, b in loops if a < begin and end < b]
            first, last = outer[0] if outer else (begin, end)
            done = (last - first) + (planes - 1) * (end - begin) if outer else end - begin
            rows = 1 if outer else times // planes
            count = MixCount(
                dtype=dtype,
                layout="channels_last" if planes == 1 else "contiguous",
                path="crop" if loads == 2 * elements else "resampled",
                columns=columns,
                rows=(128 if planes == 1 else 64) // size // columns,
                registers=int(registers[symbol]),
                once=code.fewest(0, first),
                row=done / rows,
                loads=loads * (planes if outer else 1) / rows,
                stores=planes,
                store_bits=8 * width,
            )
            # Where some rows are unrolled, another loop makes those that are left: the shorter way is the usual one.
            key = (symbol, count.path)
            if key not in counts or count.row < counts[key].row:
                counts[key] = count
    return sorted(counts.values(), key=lambda c: (c.columns == 1, c.path, c.layout, c.dtype))


def table(counts: list[MixCount]) -> str:
    """As Markdown. The kernels of float16 are those of bfloat16."""
    lines = [
        "| path | layout | dtype | columns x rows | instructions | of them once | loads | stores | registers | warps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in [c for c in counts if c.dtype != "float16"]:
        once, loads, stores = (x / c.row_pixels for x in (c.once / c.rows, c.loads, c.stores))
        cells = [c.path, c.layout, c.dtype, f"{c.columns} x {c.rows}", f"{c.per_pixel:.0f}", f"{once:.0f}"]
        cells += [f"{loads:.0f} x 8 bits", f"{stores:.2g} x {c.store_bits} bits", str(c.registers), str(4 * c.blocks)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="90", help="architecture, such as 80 or 90")
    if NVCC is None or NVDISASM is None:
        parser.error("nvcc or nvdisasm is missing: pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm")
    arch = parser.parse_args().arch
    with tempfile.TemporaryDirectory() as folder:
        print(table(count_mix(arch, Path(folder))))


if __name__ == "__main__":
    main()
