"""Tests of the Python module: `pytest python/tests`, or this file as a program. Says SKIP, and ends with 77, where the
module, NumPy or PyTorch is not installed."""
import json
import struct
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    import torch
    import torch.nn.functional as F

    import settle
    import settle.torch
    from settle import _settle
except ImportError as missing:
    if "pytest" in sys.modules:
        import pytest

        pytest.skip(f"SKIP: {missing}", allow_module_level=True)
    print("SKIP:", missing)
    sys.exit(77)

ROOT = Path(__file__).parents[2]


def norm(x, weight, bias):
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-3)


def hgru_step(p, h, x):
    """The cell of the released code, as PyTorch computes it."""

    def vector(name):
        return p[name].reshape(-1, 1, 1)

    def same(y, weight):
        return F.conv2d(y, weight, padding=weight.shape[-1] // 2)

    g1 = torch.sigmoid(F.conv2d(h, p["u1_gate.weight"], p["u1_gate.bias"]))
    c1 = norm(same(h * g1, p["w_gate_inh"]), p["bn.1.weight"], p["bn.1.bias"])
    s = F.softplus(x - F.softplus(c1 * (vector("alpha") * h + vector("mu"))))
    g2 = torch.sigmoid(F.conv2d(s, p["u2_gate.weight"], p["u2_gate.bias"]))
    c2 = norm(same(s, p["w_gate_exc"]), p["bn.3.weight"], p["bn.3.bias"])
    n = F.softplus(vector("kappa") * s + vector("gamma") * c2 + vector("w") * s * c2)
    return F.softplus((1 - g2) * h + g2 * n)


def hgru_logits(p, images, steps):
    x = F.conv2d(images, p["conv0.weight"], p["conv0.bias"], padding=3) ** 2
    cell = {name[len("unit1."):]: value for name, value in p.items() if name.startswith("unit1.")}
    h = torch.zeros_like(x)
    for _ in range(steps):
        h = hgru_step(cell, h, x)
    return F.conv2d(norm(h, p["bn.weight"], p["bn.bias"]), p["conv6.weight"], p["conv6.bias"])


def hgru_state(channels=5, kernel=3, seed=0):
    """A net's PyTorch state dict, with values of every size and sign."""
    torch.manual_seed(seed)
    out = {"conv0.weight": 0.3 * torch.randn(channels, 1, 7, 7), "conv0.bias": 0.1 * torch.randn(channels)}
    cell = settle.torch.HgruCell(channels, kernel, seed)
    for name, value in cell.state_dict().items():
        out["unit1." + name] = value + 0.05 * torch.randn_like(value)
    out["bn.weight"], out["bn.bias"] = torch.rand(channels) + 0.5, torch.randn(channels)
    out["conv6.weight"], out["conv6.bias"] = torch.randn(2, channels, 1, 1), torch.randn(2)
    return out


def write_safetensors(path, state):
    header, data = {}, b""
    for name, value in state.items():
        values = value.detach().numpy().astype("<f4").tobytes()
        places = [len(data), len(data) + len(values)]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": places}
        data += values
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def net_of(state, steps=4):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        write_safetensors(path, state)
        net = settle.load(path)
    net.steps = steps
    return net


def test_versions_agree():
    numbers = [line.split()[2] for line in (ROOT / "include/settle/version.hpp").read_text().splitlines()
               if line.startswith("#define SETTLE_VERSION_")]
    assert settle.__version__ == ".".join(numbers)
    assert f'version = "{settle.__version__}"' in (ROOT / "python/pyproject.toml").read_text()


def test_arrays_are_not_copied():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert _settle.address(a) == a.ctypes.data
    a.flags.writeable = False
    assert _settle.address(a) == a.ctypes.data
    t = torch.rand(2, 3)
    assert _settle.address(t) == t.data_ptr()
    net = net_of(hgru_state())
    logits = torch.from_dlpack(net._net.logits(np.zeros((1, 1, 9, 8), np.float32), 1))
    assert _settle.address(logits) == logits.data_ptr()
    assert np.from_dlpack(logits).ctypes.data == logits.data_ptr()
    of_numpy = net(np.zeros((1, 1, 9, 8), np.float32), steps=1)
    assert not of_numpy.flags.owndata and _settle.address(of_numpy) == of_numpy.ctypes.data


def test_weights_of_pytorch_give_the_same_logits_here_and_back():
    state = hgru_state()
    net = net_of(state)
    assert net.kind == "hgru"
    images = torch.rand(2, 1, 11, 13)
    expected = hgru_logits(state, images, 4)
    got = net(images)
    assert isinstance(got, torch.Tensor) and got.shape == (2, 2, 11, 13)
    scale = expected.abs().max()
    print("largest difference of logits:", float((got - expected).abs().max() / scale))
    assert (got - expected).abs().max() <= 1e-5 * scale
    other = net(images.numpy())
    assert isinstance(other, np.ndarray) and np.array_equal(other, got.numpy())
    assert np.array_equal(net(images.permute(0, 1, 3, 2)), net(images.permute(0, 1, 3, 2).contiguous()))

    back = {name: torch.from_numpy(value) for name, value in net.state_dict().items()}
    assert list(back) and set(back) == set(state)
    assert all(torch.equal(back[name], state[name].reshape(back[name].shape)) for name in state)
    assert (hgru_logits(back, images, 4) - got).abs().max() <= 1e-5 * scale

    changed = hgru_state(seed=1)
    net.load_state_dict({**changed, "bn.num_batches_tracked": torch.tensor(3)})
    assert (net(images) - hgru_logits(changed, images, 4)).abs().max() <= 1e-5 * scale
    for broken in ({**state, "more": torch.zeros(1)}, {k: v for k, v in state.items() if k != "bn.bias"}):
        try:
            net.load_state_dict(broken)
            raise AssertionError("expected an error")
        except settle.Error as error:
            assert "[load_state_dict]" in str(error)


def test_gradients_of_a_cell_in_a_pytorch_model_are_pytorchs_own():
    torch.manual_seed(3)
    channels = 4
    cell = settle.torch.HgruCell(channels, 3, seed=2, dtype=torch.float64)
    first = torch.nn.Conv2d(1, channels, 3, padding=1, dtype=torch.float64)
    images, weights = torch.randn(2, 1, 7, 5, dtype=torch.float64), torch.randn(2, channels, 7, 5, dtype=torch.float64)

    def loss(step):
        x = first(images) ** 2
        h = torch.zeros_like(x)
        for _ in range(3):
            h = step(h, x)
        return (weights * h).sum()

    parameters = dict(cell.named_parameters())
    inputs = [*first.parameters(), *parameters.values()]
    ours, own = loss(cell), loss(lambda h, x: hgru_step(parameters, h, x))
    assert (ours - own).abs() <= 1e-10 * own.abs()
    unused = [torch.zeros_like(p) for p in inputs]
    got = torch.autograd.grad(ours, inputs)
    expected = torch.autograd.grad(own, inputs, allow_unused=True)
    worst = 0.0
    for g, e, zero in zip(got, expected, unused):
        e = zero if e is None else e  # four batch norm vectors take no part
        worst = max(worst, float((g - e).abs().max() / (1 + e.abs().max())))
    print("largest difference of gradients:", worst)
    assert worst <= 1e-9


def test_gradients_through_a_fixed_point_are_those_of_the_same_series_in_pytorch():
    torch.manual_seed(4)
    cell = settle.torch.HgruCell(3, 3, seed=1, dtype=torch.float64)
    drive = torch.rand(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    weights, zero = torch.randn(2, 3, 6, 5, dtype=torch.float64), torch.zeros(2, 3, 6, 5, dtype=torch.float64)
    parameters = dict(cell.named_parameters())
    used = [p for name, p in parameters.items() if "bn.0" not in name and "bn.2" not in name]
    got = torch.autograd.grad((weights * cell.settle(zero, drive, steps=6, products=4)).sum(), [drive, *used])
    before = zero
    with torch.no_grad():
        for _ in range(5):
            before = hgru_step(parameters, before, drive)
    before.requires_grad_()
    last = hgru_step(parameters, before, drive)
    total = weights
    for _ in range(4):
        total = weights + torch.autograd.grad(last, before, total, retain_graph=True)[0]
    expected = torch.autograd.grad(last, [drive, *used], total)
    worst = max(float((g - e).abs().max() / (1 + e.abs().max())) for g, e in zip(got, expected))
    print("largest difference of gradients through a fixed point:", worst)
    assert worst <= 1e-9


def test_a_pytorch_optimiser_trains_a_cell():
    cell = settle.torch.HgruCell(3, 3)
    torch.manual_seed(5)
    x = torch.rand(2, 3, 6, 6)
    target = 0.2 + 0.5 * x
    adam = torch.optim.Adam(cell.parameters(), 0.05)
    losses = []
    for _ in range(15):
        adam.zero_grad()
        loss = ((cell(cell(torch.zeros_like(x), x), x) - target) ** 2).mean()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    print(f"loss: {losses[0]:.4f} to {losses[-1]:.4f}")
    assert losses[-1] < 0.8 * losses[0]
    loss = (cell(torch.zeros_like(x), x) ** 2).sum()
    with torch.no_grad():
        cell.alpha += 1
    try:
        loss.backward()
        raise AssertionError("expected an error")
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)


def test_pathfinder_is_an_iterable_of_the_same_images():
    options = dict(size=32, window=112, contour_length=3, distractors=3, distractor_length=3, thickness=3, seed=4)
    data = settle.Pathfinder(count=3, **options)
    assert len(data) == 3
    all_images = list(data)
    assert len(all_images) == 3
    for image, target in all_images:
        assert image.shape == (1, 32, 32) and image.dtype == np.float32 and 0 <= image.min() and image.max() <= 1
        assert target.shape == (32, 32) and set(np.unique(target)) == {0, 1}
    endless = iter(settle.Pathfinder(**options, first=1))
    assert np.array_equal(next(endless)[0], all_images[1][0])
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    assert next(iter(loader))[0].shape == (2, 1, 32, 32)


def test_a_runs_folder_is_loaded():
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        (run / "checkpoints").mkdir()
        (run / "config.json").write_text('{"algorithm": {"steps": 3}}')
        state = hgru_state()
        write_safetensors(run / "checkpoints" / "last.safetensors", {"net." + k: v for k, v in state.items()})
        net = settle.load(run)
        assert net.steps == 3 and net.config["algorithm"]["steps"] == 3
        assert settle.load(run / "checkpoints" / "last.safetensors").steps == 3
        try:
            settle.load(run, "best")
            raise AssertionError("expected an error")
        except FileNotFoundError as error:
            assert "best" in str(error)


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("ok:", name[len("test_"):].replace("_", " "))
