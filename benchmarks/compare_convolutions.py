#!/usr/bin/env python3
"""Single convolutions in oneDNN, in PyTorch and in settle, alternating, on one thread, on the same machine in one run.

    compare_convolutions.py [--programs build/benchmarks] [--kernels 1 3 5 7 9 15 31] [--channels 8 16 25 32 64]
                            [--sizes 150 64 32] [--batch 1] [--rounds 3] [--write docs/performance.md]

Each cell of the table is a kernel, a number of channels and a size of the image: the faster peer's time over settle's in
the direction (forward, input gradient, weight gradient) where that is smallest. The peers are those that can be had:
oneDNN (the program convolution_onednn, in its best layout, reordering not counted) and PyTorch. Times are medians over
rounds of processor time for a call; settle's weights' spectra are kept between calls, as recurrent steps keep them.
With --write the table replaces what stands between the markers "convolutions:begin" and "convolutions:end" of a file.
"""
import argparse
import os
import statistics
import sys
import time

from comparison import json_of, processor, write_between

try:
    import torch
except ImportError:
    torch = None

DIRECTIONS = ["forward", "input_grad", "weight_grad"]
LEAST = 0.05  # seconds that a measurement takes at least


def google(program, case):
    """Processor time of each direction in seconds: the fastest of a program's variants."""
    kernel, channels, size, batch, variant = case
    command = [program, f"--benchmark_filter=.*/k{kernel}/c{channels}/s{size}/n{batch}/{variant}/real_time$",
               "--benchmark_format=json", f"--benchmark_min_time={LEAST}"]
    times = {}
    for run in json_of(command, SETTLE_THREADS="1", OMP_NUM_THREADS="1")["benchmarks"]:
        if not run.get("error_occurred"):
            direction = run["name"].split("/")[0]
            times[direction] = min(times.get(direction, float("inf")), run["cpu_time"] / 1e3)
    return times


def pytorch(kernel, channels, size, batch):
    x, gy = torch.rand(batch, channels, size, size), torch.rand(batch, channels, size, size)
    w, pad = torch.rand(channels, channels, kernel, kernel), [kernel // 2] * 2
    backward = lambda which: torch.ops.aten.convolution_backward(gy, x, w, None, [1, 1], pad, [1, 1], False, [0, 0], 1,
                                                                 [which == 1, which == 2, False])
    calls = [lambda: torch.nn.functional.conv2d(x, w, padding=pad), lambda: backward(1), lambda: backward(2)]
    times = {}
    with torch.no_grad():
        for name, call in zip(DIRECTIONS, calls):
            call()
            start, count = time.process_time(), 0
            while count == 0 or time.process_time() - start < LEAST:
                call()
                count += 1
            times[name] = (time.process_time() - start) / count
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default="build/benchmarks", help="the folder with the benchmarks' programs")
    parser.add_argument("--kernels", type=int, nargs="+", default=[1, 3, 5, 7, 9, 15, 31])
    parser.add_argument("--channels", type=int, nargs="+", default=[8, 16, 25, 32, 64])
    parser.add_argument("--sizes", type=int, nargs="+", default=[150, 64, 32], help="of 150, 64 and 32")
    parser.add_argument("--batch", type=int, default=1, choices=[1, 4])
    parser.add_argument("--rounds", type=int, default=3, help="of all sides, one after the other")
    parser.add_argument("--seconds", type=float, default=10, help="for a cell; then it gets no further round")
    parser.add_argument("--write", metavar="FILE", help="replace the table in this file")
    options = parser.parse_args()

    onednn = os.path.join(options.programs, "convolution_onednn")
    sides = {"settle": lambda *case: google(os.path.join(options.programs, "convolution"), (*case, "automatic"))}
    if os.path.exists(onednn):
        sides["oneDNN"] = lambda *case: google(onednn, (*case, "(any|nchw|nhwc)"))
    if torch:
        torch.set_num_threads(1)
        sides["PyTorch"] = pytorch
    peers = [name for name in sides if name != "settle"]
    if not peers:
        sys.exit("neither oneDNN's program nor PyTorch is there to compare with")

    def cell(kernel, channels, size):
        start, times = time.perf_counter(), {}
        for done in range(options.rounds):
            if done and time.perf_counter() - start > options.seconds:
                break
            for name, measure in sides.items():
                for direction, seconds in measure(kernel, channels, size, options.batch).items():
                    times.setdefault((name, direction), []).append(seconds)
        median = {key: statistics.median(values) for key, values in times.items()}
        worst = min((median[peer, direction] / median["settle", direction], direction, peer)
                    for peer in peers for direction in DIRECTIONS if (peer, direction) in median)
        details = ", ".join(f"{name} {direction} {1e3 * seconds:.4g} ms" for (name, direction), seconds in median.items())
        print(f"k{kernel} c{channels} s{size}: {worst[0]:.2f} ({worst[1]}, {worst[2]}); {details}", flush=True)
        return f"{worst[0]:.2f}" if worst[0] < 10 else f"{worst[0]:.0f}"

    head = [f"{size} x {size}: {c}" if c == options.channels[0] else str(c)
            for size in options.sizes for c in options.channels]
    lines = ["| kernel | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for kernel in options.kernels:
        row = [cell(kernel, channels, size) for size in options.sizes for channels in options.channels]
        lines.append(f"| {kernel} | " + " | ".join(row) + " |")
    about = (f"{time.strftime('%Y-%m-%d')}, {processor()}, batch {options.batch}, one thread, against "
             + " and ".join(peers) + (f" {torch.__version__}" if torch else "") + ".")
    print(about, *lines, sep="\n")
    if options.write:
        write_between(options.write, "convolutions", about + "\n\n" + "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
