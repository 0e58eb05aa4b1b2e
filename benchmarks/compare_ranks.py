#!/usr/bin/env python3
"""Times a training step of the paper's hGRU (kernel 15, batch 8, C-RBP) on two processors in three ways, in turn: one
process of two threads, the same as a group of one rank, and two ranks of one thread.

    ninja -C build examples/settle_train examples/settle_train_mpi
    benchmarks/compare_ranks.py [--programs build/examples] [--rounds 3] [--steps 7] [--kernel 15] [--size 150]

Prints the median seconds of a step, without each training's first two, and the ratios; every ratio is one of medians
within this run. Leave the machine to it.

    benchmarks/compare_ranks.py --link build/benchmarks/delayed_link [--delays 0 0.1 1]

times two ranks on a link that takes so many milliseconds (root), beside the model: a step's messages, one after the
other, each take the delay on each of their ways. Kernel 3 and 32 x 32 pixels, whose steps are short.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from comparison import processor

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--programs", type=Path, default=Path(__file__).parents[1] / "build/examples")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--steps", type=int, default=7)
parser.add_argument("--kernel", type=int, default=15)
parser.add_argument("--size", type=int, default=150)
parser.add_argument("--link", type=Path)
parser.add_argument("--delays", type=float, nargs="+", default=[0, 0.1, 1])
options = parser.parse_args()
if options.link:
    options.kernel, options.size, options.steps = 3, 32, max(options.steps, 40)

config = Path(__file__).parents[1] / "examples/configs/pathfinder_small.json"
settings = [f"model.kernel={options.kernel}", "model.orientations=12", f"data.size={options.size}", "data.count=64",
            "data.validation=0", "data.held_out=0", "train.batch=8", f"train.steps={options.steps}",
            "algorithm.steps=20", "algorithm.products=15", "algorithm.adjoint=neumann", "algorithm.adjoint_rtol=1e-12",
            "schedule.kind=constant", "optimiser.rate=0.0001"]
if not options.link:  # images of the paper's size hold its contours
    settings += ["data.window=300", "data.contour_length=14"]
messages = 41 + 39 + 38 + 2  # of such a step: tests/distributed/together.cpp counts them
hops = 2  # of a message by sockets: to rank 0, and back


def training(program, threads, place):
    command = [options.programs / program, config, "--output", f"{place}/run"]
    for setting in settings + [f"machine.threads={threads}"]:
        command += ["--set", setting]
    return [str(word) for word in command]


def step_seconds(command_in):
    """Of each step but the first two of a training, whose command is made for a folder."""
    with tempfile.TemporaryDirectory() as place:
        command = command_in(place)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{command} ended with status {done.returncode}: {done.stderr}{done.stdout}")
        lines = [json.loads(line) for line in open(f"{place}/run/metrics.jsonl")]
        at = [line["seconds"] for line in lines if "loss" in line]
        return [later - earlier for earlier, later in zip(at[1:], at[2:])]


def on_link(delay):
    """Two ranks at the ends of a link."""
    def command_in(place):
        both = []
        for rank, space in enumerate("ab"):
            told = f"RANK={rank} WORLD_SIZE=2 MASTER_ADDR=10.98.0.1 MASTER_PORT=29511"
            both.append(f"ip netns exec settle_{space} env {told} {' '.join(training('settle_train', 1, place))}")
        return [str(options.link), str(delay), f"{both[1]} > {place}/said 2>&1 & {both[0]} && wait $!"]
    return command_in


mpirun = ["mpirun", "--allow-run-as-root", "--bind-to", "none", "-np"]
if options.link:
    ways = {f"{delay} ms": on_link(delay) for delay in options.delays}
else:
    ways = {
        "one process, two threads": lambda place: training("settle_train", 2, place),
        "a group of one rank, two threads": lambda place: mpirun + ["1"] + training("settle_train_mpi", 2, place),
        "two ranks of one thread": lambda place: mpirun + ["2"] + training("settle_train_mpi", 1, place),
    }
seconds = {way: [] for way in ways}
for _ in range(options.rounds):
    for way, command in ways.items():
        seconds[way] += step_seconds(command)
medians = {way: statistics.median(all) for way, all in seconds.items()}
print(f"{processor()}; kernel {options.kernel}, {options.size} x {options.size}, batch 8, {options.rounds} rounds")
first = next(iter(medians.values()))
for way, median in medians.items():
    if options.link:
        more = (float(way.split()[0]) - options.delays[0]) / 1000
        print(f"{way:8} {1000 * median:.1f} ms a step, by the model {1000 * (first + messages * hops * more):.1f}")
    else:
        print(f"{way:34} {median:.3f} s a step, speed {first / median:.3f} of the first")
