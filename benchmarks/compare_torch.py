#!/usr/bin/env python3
"""Whole training steps in PyTorch and in settle, alternating, on the same machine in one run.

    compare_torch.py [--program build/benchmarks/hgru_step] [--rounds 3] [--seconds 30] [--write docs/performance.md]
                     CASE ...

A case is MODEL:ALGORITHM:KERNEL:SIZE:BATCH:THREADS, such as hgru:crbp:15:150:1:2. Prints a table of medians in
seconds; with --write it replaces the text between the markers "steps:begin" and "steps:end" of a file. PyTorch's peak
is the process's largest resident memory during the case beyond what it was before the first. With one thread both sides
are measured in processor time, which other programs disturb less, with more in wall time. A case gets no further
round after --seconds; where PyTorch takes more than 4 s, its first step counts and none is left out as a warm-up.

The PyTorch side does the same work: for rbp and crbp 20 steps, the last of them recorded, 15 vector-Jacobian products,
one backward pass, and for crbp the penalty with its second derivative; for bptt and cbptt 6 recorded steps. Both sides
end with Adam.
"""
import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time

import torch
from torch import nn
from torch.nn import functional

STEPS, PRODUCTS, UNROLLED = 20, 15, 6


class HgruCell(nn.Module):
    def __init__(self, channels, kernel):
        super().__init__()
        self.inhibition = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.excitation = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.u1 = nn.Conv2d(channels, channels, 1)
        self.u2 = nn.Conv2d(channels, channels, 1)
        for conv in (self.inhibition, self.excitation, self.u1, self.u2):
            nn.init.orthogonal_(conv.weight)
        nn.init.uniform_(self.u1.bias, 1, 7)
        self.u2.bias.data = -self.u1.bias.data.clone()
        self.bn1, self.bn3 = (nn.BatchNorm2d(channels, eps=1e-3, track_running_stats=False) for _ in range(2))
        for norm in (self.bn1, self.bn3):
            nn.init.constant_(norm.weight, 0.1)
        vector = lambda value: nn.Parameter(torch.full((channels, 1, 1), value))
        self.alpha, self.gamma, self.kappa, self.w, self.mu = map(vector, (0.1, 1.0, 0.5, 0.5, 1.0))

    def initial(self, x):
        return (torch.zeros_like(x),)

    def prepare(self, x):
        return x

    def forward(self, state, x):
        (h,) = state
        c1 = self.bn1(self.inhibition(h * torch.sigmoid(self.u1(h))))
        s = functional.softplus(x - functional.softplus(c1 * (self.alpha * h + self.mu)))
        g2 = torch.sigmoid(self.u2(s))
        c2 = self.bn3(self.excitation(s))
        n = functional.softplus(self.kappa * s + self.gamma * c2 + self.w * s * c2)
        return (functional.softplus((1 - g2) * h + g2 * n),)


class ConvLstmCell(nn.Module):
    def __init__(self, channels, kernel):
        super().__init__()
        conv = lambda bias: nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=bias)
        self.on_x = nn.ModuleList(conv(True) for _ in range(4))
        self.on_h = nn.ModuleList(conv(False) for _ in range(4))

    def initial(self, x):
        return (torch.zeros_like(x), torch.zeros_like(x))

    def prepare(self, x):  # the drive's convolutions once, as settle does
        return [conv(x) for conv in self.on_x]

    def forward(self, state, drive):
        h, c = state
        i, f, g, o = (d + conv(h) for d, conv in zip(drive, self.on_h))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class Net(nn.Module):
    def __init__(self, model, channels, kernel):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 7, padding=3)
        self.cell = (HgruCell if model == "hgru" else ConvLstmCell)(channels, kernel)
        self.norm = nn.BatchNorm2d(channels, eps=1e-3, track_running_stats=False)
        self.readout = nn.Conv2d(channels, 2, 1)


def focal_loss(logits, target):
    log_p = torch.log_softmax(logits, 1).gather(1, target[:, None])
    return (-((1 - log_p.detach().exp()) ** 2) * log_p).mean()


def lcp(after, before):
    total = 0
    for z_next, z in zip(after, before):  # the convLSTM's parts each against itself, as released
        r = torch.autograd.grad(z_next, z, torch.ones_like(z_next), create_graph=True, retain_graph=True)[0]
        total = total + ((r - 0.9).clamp(min=0) ** 2).mean()
    return total


def step(net, optimiser, images, target, algorithm):
    optimiser.zero_grad(set_to_none=True)
    x = net.stem(images) ** 2
    penalty = 0
    if algorithm in ("rbp", "crbp"):
        with torch.no_grad():
            drive = net.cell.prepare(x)
            state = net.cell.initial(x)
            for _ in range(STEPS - 1):
                state = net.cell(state, drive)
        before = tuple(part.detach().requires_grad_() for part in state)
        after = net.cell(before, net.cell.prepare(x))
        top = after[0].detach().requires_grad_()
        loss = focal_loss(net.readout(net.norm(top)), target)
        loss.backward()
        term = total = top.grad
        for _ in range(PRODUCTS):
            (term,) = torch.autograd.grad(after[0], before[0], term, retain_graph=True)
            total = total + term
        outputs, cotangents = [after[0]], [total]
        if algorithm == "crbp":
            penalty = lcp(after, before)
            outputs.append(10 * penalty)
            cotangents.append(None)
        torch.autograd.backward(outputs, cotangents)
    else:
        drive, state = net.cell.prepare(x), net.cell.initial(x)
        for _ in range(UNROLLED):
            before, state = state, net.cell(state, drive)
        loss = focal_loss(net.readout(net.norm(state[0])), target)
        if algorithm == "cbptt":
            loss = loss + 10 * lcp(state, before)
        loss.backward()
    optimiser.step()


class Torch:
    def __init__(self, case):
        model, self.algorithm, kernel, size, batch, threads = case
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        self.net = Net(model, 25, kernel)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=0.0)
        self.images = torch.rand(batch, 1, size, size)
        self.target = (torch.rand(batch, size, size) < 0.01).long()

    def seconds(self):
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        step(self.net, self.optimiser, self.images, self.target, self.algorithm)
        return clock() - start


def ours(program, case, repeat):
    model, algorithm, kernel, size, batch, threads = case
    steps = STEPS if algorithm in ("rbp", "crbp") else UNROLLED
    command = [program, "--json", "--whole", "--model", model, "--algorithm", algorithm, "--kernel", kernel, "--size",
               size, "--batch", batch, "--threads", threads, "--steps", steps, "--neumann", PRODUCTS, "--repeat",
               repeat]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def memory(line):
    """VmRSS or VmHWM of this process, in bytes."""
    with open("/proc/self/status") as file:
        return next(1024 * int(text.split()[1]) for text in file if text.startswith(line + ":"))


def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def processor():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--program", default="build/benchmarks/hgru_step")
    parser.add_argument("--rounds", type=int, default=3, help="of both sides, one after the other")
    parser.add_argument("--seconds", type=float, default=30, help="for a case, roughly")
    parser.add_argument("--write", metavar="FILE", help="replace the table in this file")
    options = parser.parse_args()

    lines = ["| model | algorithm | kernel | size | batch | threads | PyTorch, s | settle, s | ratio | PyTorch's peak, MB "
             "| settle's peak, MB |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    print(*lines, sep="\n", flush=True)
    torch.rand(8, 8).mm(torch.rand(8, 8))
    base = memory("VmRSS")
    for text in options.cases:
        model, algorithm, *numbers = text.split(":")
        case = (model, algorithm, *map(int, numbers))
        start = time.perf_counter()
        forget_peak()
        peer = Torch(case)
        one = peer.seconds()  # the first builds what PyTorch keeps
        peer_times, our_times = [one] if one > 4 else [], []
        for done in range(options.rounds):
            if done and time.perf_counter() - start > options.seconds:
                break
            result = ours(options.program, case, 3 if one < 20 else 1)
            our_times.append(result["processor_seconds" if case[-1] == 1 else "seconds"])
            if not peer_times or time.perf_counter() - start < options.seconds:
                peer_times += [peer.seconds() for _ in range(1 if one > 1 else 3)]
        peak = memory("VmHWM") - base
        del peer
        gc.collect()
        a, b = statistics.median(peer_times), statistics.median(our_times)
        lines.append(f"| {model} | {algorithm} | {numbers[0]} | {numbers[1]} | {numbers[2]} | {numbers[3]} | {a:.3f} | "
                     f"{b:.4f} | {a / b:.1f} | {peak / 1e6:.0f} | {result['peak_bytes'] / 1e6:.0f} |")
        print(lines[-1], flush=True)
    about = (f"{time.strftime('%Y-%m-%d')}, {processor()}, PyTorch {torch.__version__} "
             f"({torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends, 'cpu') else 'CPU'}), float32, "
             f"25 channels, medians of at most {options.rounds} alternating rounds; processor time for one thread.")
    print(about)
    if options.write:
        with open(options.write) as file:
            page = file.read()
        begin, end = "<!-- steps:begin -->", "<!-- steps:end -->"
        head, rest = page.split(begin)
        tail = rest.split(end)[1]
        with open(options.write, "w") as file:
            file.write(head + begin + "\n" + about + "\n\n" + "\n".join(lines) + "\n" + end + tail)


if __name__ == "__main__":
    sys.exit(main())
