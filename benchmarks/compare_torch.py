#!/usr/bin/env python3
"""Whole training steps in PyTorch and in settle, alternating, on the same machine in one run.

    compare_torch.py [--program build/benchmarks/hgru_step] [--rounds 3] [--seconds 30] [--write docs/performance.md]
                     CASE ...
    compare_torch.py --device cuda [--kernels 15 9 5 3] [--batch 128] [--size 150] [--write docs/gpu.md]

A case is MODEL:ALGORITHM:KERNEL:SIZE:BATCH:THREADS, such as hgru:crbp:15:150:1:2. Prints a table of medians in
seconds; with --write it replaces the text between the markers "steps:begin" and "steps:end" of a file. PyTorch's peak
is the process's largest resident memory during the case beyond what it was before the first. The handover is the time
after which one thread sees what another has written, measured just after settle's steps of each round: a host that
moves a virtual machine's processors changes it, and the speed of two threads with it. With one thread both sides are
measured in processor time, which other programs disturb less, with more in wall time. A case gets no further round
after --seconds; where PyTorch takes more than 4 s, its first step counts and none is left out as a warm-up.

The PyTorch side does the same work: for rbp and crbp 20 steps, the last of them recorded, 15 vector-Jacobian products,
one backward pass, and for crbp the penalty with its second derivative; for bptt and cbptt 6 recorded steps. Both sides
end with Adam.

With --device cuda the sides meet on a GPU: a convolution alone, one step of the hGRU's cell (nothing recorded), the
pointwise part of that (the step less its two k x k and two 1 x 1 convolutions, each measured alone), and a whole C-RBP
step. PyTorch three ways: eager with TF32, eager in strict float32, compiled with TF32; a ratio takes settle's time at
the same precision. The table goes between the markers "torch:begin" and "torch:end"; the model's ratios are read from
the same file's table between "model:begin" and "model:end". --rehearse does all that on the CPU, for checking this
program: its figures say nothing about a GPU. Status 3: kernels were left out for want of time.
"""
import argparse
import gc
import statistics
import sys
import time

from comparison import json_of, processor, write_between

try:
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError:
    sys.exit("compare_torch.py needs PyTorch, which this Python does not have")

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


def ours(program, case, repeat, more=()):
    model, algorithm, kernel, size, batch, threads = case
    steps = STEPS if algorithm in ("rbp", "crbp") else UNROLLED
    command = [program, "--json", "--whole", "--model", model, "--algorithm", algorithm, "--kernel", kernel, "--size",
               size, "--batch", batch, "--threads", threads, "--steps", steps, "--neumann", PRODUCTS, "--repeat",
               repeat, *more]
    return json_of(command)


def memory(line):
    """VmRSS or VmHWM of this process, in bytes."""
    with open("/proc/self/status") as file:
        return next(1024 * int(text.split()[1]) for text in file if text.startswith(line + ":"))


def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


# --- on a GPU ------------------------------------------------------------------------------------

MODES = {"eager TF32": "tf32", "strict float32": "float32", "compiled": "tf32"}  # and settle's precision beside it
PARTS = ["convolution", "cell step", "its pointwise part", "whole C-RBP step"]
CALLS = 10  # of what is short, between two looks at the clock


class CompiledStep:
    """The C-RBP step with torch.compile: its derivatives of first order are taken by the compiler, and the penalty's
    product is traced, as compiled functions cannot be differentiated twice."""

    def __init__(self, net):
        cell = net.cell
        frozen = {name: value.detach() for name, value in cell.named_parameters()}  # shares the parameters' memory

        def penalised(h, x):
            after, product = torch.func.vjp(lambda state: cell((state,), x)[0], h)
            (r,) = product(torch.ones_like(after))
            return after, ((r - 0.9).clamp(min=0) ** 2).mean()

        self.net = net
        self.cell = torch.compile(lambda h, x: cell((h,), x)[0], dynamic=False)
        self.penalised = torch.compile(penalised, dynamic=False)
        self.for_state = torch.compile(
            lambda h, x: torch.func.functional_call(cell, frozen, ((h,), x))[0], dynamic=False)

    def __call__(self, optimiser, images, target):
        optimiser.zero_grad(set_to_none=True)
        x = self.net.stem(images) ** 2
        with torch.no_grad():
            h = torch.zeros_like(x)
            for _ in range(STEPS - 1):
                h = self.cell(h, x)
        after, penalty = self.penalised(h, x)
        top = after.detach().requires_grad_()
        focal_loss(self.net.readout(self.net.norm(top)), target).backward()
        before = h.detach().requires_grad_()
        again = self.for_state(before, x.detach())
        term = total = top.grad
        for _ in range(PRODUCTS):
            (term,) = torch.autograd.grad(again, before, term, retain_graph=True)
            total = total + term
        torch.autograd.backward([after, 10 * penalty], [total, None])
        optimiser.step()


class OnDevice:
    """PyTorch's side of one kernel size."""

    def __init__(self, device, kernel, size, batch):
        torch.manual_seed(1)
        self.device = device
        self.net = Net("hgru", 25, kernel).to(device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=0.0)
        self.images = torch.rand(batch, 1, size, size, device=device)
        self.target = (torch.rand(batch, size, size, device=device) < 0.01).long()
        with torch.no_grad():
            self.x = self.net.stem(self.images) ** 2
            self.h = torch.rand_like(self.x)
        self.compiled = CompiledStep(self.net)

    def synchronise(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call, calls, repeat):
        def once():
            self.synchronise()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            self.synchronise()
            return (time.perf_counter() - start) / calls
        once()
        once()
        return statistics.median(once() for _ in range(repeat))

    def measure(self, mode, repeat):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = MODES[mode] == "tf32"
        cell, compiled = self.net.cell, mode == "compiled"
        with torch.no_grad():
            short = lambda call: self.seconds(call, CALLS, repeat)
            convolution = short(lambda: cell.inhibition(self.h))
            gate = short(lambda: functional.conv2d(self.h, cell.u1.weight))
            one = short((lambda: self.compiled.cell(self.h, self.x)) if compiled else
                        (lambda: cell((self.h,), self.x)))
        if compiled:
            whole = lambda: self.compiled(self.optimiser, self.images, self.target)
        else:
            whole = lambda: step(self.net, self.optimiser, self.images, self.target, "crbp")
        step_seconds = self.seconds(whole, 1, repeat)
        if self.device == "cuda":
            torch.cuda.empty_cache()  # settle's turn
        return parts(convolution, gate, one, step_seconds)


def parts(convolution, gate, cell_step, whole):
    return dict(zip(PARTS, (convolution, cell_step, cell_step - 2 * convolution - 2 * gate, whole)))


def model_ratios(path):
    """{(kernel, part): [ratio for each mode]} of the model's table, where there is one."""
    out = {}
    with open(path) as file:
        page = file.read()
    if "<!-- model:begin -->" in page:
        for line in page.split("<!-- model:begin -->")[1].split("<!-- model:end -->")[0].splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if cells[0].isdigit():
                out[int(cells[0]), cells[1]] = cells[2:]
    return out


def on_device(options):
    device = "cpu" if options.rehearse else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("compare_torch.py --device cuda needs a GPU that PyTorch can use, and found none")
    torch.backends.cudnn.benchmark = True
    from torch._functorch import config

    config.donated_buffer = False  # the compiled cell is differentiated fifteen times
    model = model_ratios(options.write) if options.write else {}
    start = time.perf_counter()
    header = ["kernel", "part", *(f"PyTorch {mode}, ms" for mode in MODES), "settle TF32, ms", "settle float32, ms",
              *(f"ratio, {mode}" for mode in MODES)]
    if model:
        header += ["the model's ratios"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    print(*lines, sep="\n", flush=True)
    where = f"{processor()} (a rehearsal: no GPU took part)" if options.rehearse else torch.cuda.get_device_name()
    about = (f"{time.strftime('%Y-%m-%d')}, {where}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, batch "
             f"{options.batch}, {options.size} x {options.size}, 25 channels, medians of {options.rounds} alternating "
             "rounds at most; a ratio is PyTorch's time over settle's.")
    left_out = 0
    for kernel in options.kernels:
        if len(lines) > 2 and time.perf_counter() - start > options.seconds:
            print(f"kernel {kernel} is left out: {options.seconds:.0f} s are over", flush=True)
            left_out += 1
            continue
        peer = OnDevice(device, kernel, options.size, options.batch)
        times = {}
        for done in range(options.rounds):
            if done and time.perf_counter() - start > options.seconds:
                break
            for mode in MODES:
                times.setdefault(mode, []).append(peer.measure(mode, 3))
            for precision in ("tf32", "float32"):
                more = ["--cell", "--device", device] + (["--tf32"] if precision == "tf32" else [])
                case = ("hgru", "crbp", kernel, options.size, options.batch, options.threads)
                got = ours(options.program, case, 3, more)
                times.setdefault(precision, []).append(
                    parts(got["convolution"], got["gate"], got["cell"], got["seconds"]))
        del peer
        gc.collect()
        torch._dynamo.reset()
        for part in PARTS:
            at = {side: statistics.median(one[part] for one in all_rounds) for side, all_rounds in times.items()}
            cells = [f"{kernel}", part, *(f"{1e3 * at[side]:.3f}" for side in [*MODES, "tf32", "float32"]),
                     *(f"{at[mode] / at[MODES[mode]]:.2f}" for mode in MODES)]
            if model:
                cells += [", ".join(model.get((kernel, part), []))]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
        if options.write:  # after each kernel: whatever ends this program, what was measured stays
            write_between(options.write, "torch", about + "\n\n" + "\n".join(lines))
    print(about)
    return 3 if left_out else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--program", default="build/benchmarks/hgru_step")
    parser.add_argument("--rounds", type=int, default=3, help="of both sides, one after the other")
    parser.add_argument("--seconds", type=float, help="for a case, roughly (30); on a GPU for all together (240)")
    parser.add_argument("--write", metavar="FILE", help="replace the table in this file")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--kernels", type=int, nargs="+", default=[15, 5, 9, 3], help="on a GPU, in this order")
    parser.add_argument("--batch", type=int, default=128, help="on a GPU")
    parser.add_argument("--size", type=int, default=150, help="on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="settle's, on a GPU")
    parser.add_argument("--rehearse", action="store_true", help="with --device cuda: do it all on the CPU instead")
    options = parser.parse_args()
    if options.seconds is None:
        options.seconds = 240 if options.device == "cuda" else 30
    if options.device == "cuda":
        return on_device(options)

    lines = ["| model | algorithm | kernel | size | batch | threads | PyTorch, s | settle, s | ratio | PyTorch's peak, MB "
             "| settle's peak, MB | handover, ns |",
             "|---|---|---|---|---|---|---|---|---|---|---|---|"]
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
        peer_times, our_times, handovers = [one] if one > 4 else [], [], []
        for done in range(options.rounds):
            if done and time.perf_counter() - start > options.seconds:
                break
            result = ours(options.program, case, 9 if one < 8 else 3 if one < 20 else 1)
            our_times.append(result["processor_seconds" if case[-1] == 1 else "seconds"])
            handovers.append(f"{1e9 * result['handover']:.0f}")
            if not peer_times or time.perf_counter() - start < options.seconds:
                peer_times += [peer.seconds() for _ in range(1 if one > 1 else 3)]
        peak = memory("VmHWM") - base
        del peer
        gc.collect()
        a, b = statistics.median(peer_times), statistics.median(our_times)
        lines.append(f"| {model} | {algorithm} | {numbers[0]} | {numbers[1]} | {numbers[2]} | {numbers[3]} | {a:.3f} | "
                     f"{b:.4f} | {a / b:.1f} | {peak / 1e6:.0f} | {result['peak_bytes'] / 1e6:.0f} | "
                     f"{', '.join(handovers) if case[-1] > 1 else ''} |")
        print(lines[-1], flush=True)
    about = (f"{time.strftime('%Y-%m-%d')}, {processor()}, PyTorch {torch.__version__} "
             f"({torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends, 'cpu') else 'CPU'}), float32, "
             f"25 channels, medians of at most {options.rounds} alternating rounds; processor time for one thread.")
    print(about)
    if options.write:
        write_between(options.write, "steps", about + "\n\n" + "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
