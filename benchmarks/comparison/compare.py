#!/usr/bin/env python3
"""The same tasks by settle and libtorch, side by side: lines of code, seconds to compile at -O2, seconds to train and
the F1 reached. Prints a Markdown table for docs/comparison.md.

    benchmarks/comparison/compare.py FOLDER [--steps 300] [--held-out 6] [--rounds 3]

FOLDER has grey images in images/ and masks of 255 and, where they are marked, 0 in labels/. libtorch is that of this
Python's torch package. Needs libpng and g++. What is missing is left out, with the reason. Leave the machine to it.
"""
import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here.parent))
from comparison import processor  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--held-out", type=int, default=6)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()
root = here.parents[1]


def pkg_config(*names):
    return subprocess.run(["pkg-config", "--cflags", "--libs", *names], capture_output=True, text=True,
                          check=True).stdout.split()


def lines_of(*files):
    """Lines that are neither empty, nor a comment, nor an include."""
    text = "\n".join((here / file).read_text() for file in files)
    return sum(1 for line in text.splitlines() if line.strip() and not re.match(r"\s*(//|///|#include|#pragma)", line))


def torch_flags():
    import torch
    from torch.utils.cpp_extension import include_paths, library_paths
    flags = [f"-isystem{path}" for path in include_paths()]
    flags.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}")
    for path in library_paths():
        flags += [f"-L{path}", f"-Wl,-rpath,{path}"]
    return torch.__version__, flags + ["-ltorch", "-ltorch_cpu", "-lc10", "-Wl,--no-as-needed", *pkg_config("libpng")]


def settle_flags():
    text = (root / "include/settle/version.hpp").read_text()
    version = ".".join(re.findall(r"#define SETTLE_VERSION_[A-Z]* (\d+)", text))
    return version, [f"-I{root / 'include'}", *pkg_config("eigen3", "nlohmann_json", "libpng", "libjpeg"), "-pthread"]


programs = [
    ("four convolutions", "settle", settle_flags, ["settle_layers.cpp"]),
    ("four convolutions", "libtorch", torch_flags, ["libtorch_layers.cpp", "libtorch_images.hpp"]),
    ("hGRU through its fixed point", "settle", settle_flags, ["settle_recurrent.cpp"]),
    ("hGRU through its fixed point", "libtorch", torch_flags, ["libtorch_recurrent.cpp", "libtorch_images.hpp"]),
]
print(f"{processor()}, {options.threads} threads; {options.steps} steps, medians of {options.rounds}\n")
print("| task | library | lines of code | seconds to compile | seconds to train and test | F1 |")
print("|---|---|---|---|---|---|")
with tempfile.TemporaryDirectory() as place:
    for task, library, flags_of, files in programs:
        try:
            version, flags = flags_of()
        except (ImportError, subprocess.CalledProcessError) as error:
            print(f"{library}: left out ({error})", file=sys.stderr)
            continue
        compiled, trained, said = [], [], ""
        for _ in range(options.rounds):
            start = time.perf_counter()
            subprocess.run(["g++", "-std=c++20", "-O2", "-march=native", here / files[0], "-o", f"{place}/program", *flags],
                           check=True)
            compiled.append(time.perf_counter() - start)
            start = time.perf_counter()
            said = subprocess.run(
                ["env", f"SETTLE_THREADS={options.threads}", f"OMP_NUM_THREADS={options.threads}", f"{place}/program",
                 options.folder, str(options.steps), str(options.held_out)],
                capture_output=True, text=True, check=True).stdout
            trained.append(time.perf_counter() - start)
        scores = ", ".join(re.findall(r"F1 (\S+)", said))
        print(f"| {task} | {library} {version} | {lines_of(*files)} | {statistics.median(compiled):.1f} | "
              f"{statistics.median(trained):.1f} | {scores} |", flush=True)
