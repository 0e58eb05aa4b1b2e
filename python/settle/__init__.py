"""settle's trained nets, and its Pathfinder images, on NumPy and PyTorch arrays. Cells in PyTorch: settle.torch."""
import json
from pathlib import Path

import numpy as np

from . import _settle
from ._settle import Error

__version__ = _settle.version
__all__ = ["Error", "Net", "Pathfinder", "load", "set_threads"]


def _is_torch(array):
    return type(array).__module__.split(".")[0] == "torch"


class _Given:
    """A DLPack capsule of C++, as NumPy takes it."""

    def __init__(self, capsule):
        self._capsule = capsule

    def __dlpack__(self, **unused):
        return self._capsule

    def __dlpack_device__(self):
        return (1, 0)  # the processor


def _numpy(capsule):
    """What C++ gives as a NumPy array, which NumPy makes read-only: nothing is copied."""
    return np.from_dlpack(_Given(capsule))


def _like(capsule, given):
    """What C++ gives, as the library of `given` has it: nothing is copied."""
    if not _is_torch(given):
        return _numpy(capsule)
    import torch

    return torch.from_dlpack(capsule)


class Net:
    """A trained net. Called on images (N, C, H, W) of float32, NumPy's or PyTorch's on the processor, it gives their
    logits (N, K, H, W) as the same kind of array (NumPy's is read-only); neither is copied, if the images are
    contiguous."""

    def __init__(self, net, steps, config=None):
        self._net = net
        self.steps = steps  #: recurrent steps, those of training
        self.config = config or {}  #: the run's configuration, where there is a run

    @property
    def kind(self):
        """"hgru", "conv_lstm" or "feed_forward"."""
        return self._net.kind

    def __call__(self, images, steps=None):
        given = images.detach().contiguous() if _is_torch(images) else np.ascontiguousarray(images)
        return _like(self._net.logits(given, self.steps if steps is None else steps), images)

    def state_dict(self):
        """The parameters and buffers by name, as NumPy arrays of their own memory: `torch.from_numpy` makes a PyTorch
        state dict of them."""
        return {name: _numpy(value).copy() for name, value in self._net.state()}

    def load_state_dict(self, state):
        """Takes all values from a dict of arrays, such as a PyTorch module's state_dict(). Raises Error, and changes
        nothing, where a name or a shape differs; num_batches_tracked is passed over."""
        counts = "num_batches_tracked"
        self._net.set_state(
            [
                (name, value.detach().contiguous() if _is_torch(value) else np.ascontiguousarray(value))
                for name, value in state.items()
                if not name.endswith(counts)
            ]
        )


def load(path, checkpoint=None):
    """The net of a run's folder, with the weights of a checkpoint ("best", "last", "step_N"; by default the best, where
    there is one), or that of a .safetensors file. Images must be prepared as in training: see `net.config["data"]`."""
    path = Path(path)
    run = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else None
    if path.is_dir():
        folder = path / "checkpoints"
        names = [checkpoint] if checkpoint else ["best", "last"]
        found = [folder / f"{name}.safetensors" for name in names if (folder / f"{name}.safetensors").exists()]
        if not found:
            raise FileNotFoundError(f"{folder}: there is no checkpoint called {' or '.join(names)}")
        path = found[0]
    config = json.loads((run / "config.json").read_text()) if run and (run / "config.json").exists() else {}
    steps = config.get("algorithm", {}).get("steps", 20)
    return Net(_settle.read_net(str(path)), steps, config)


class Pathfinder:
    """Pathfinder images without end, or `count` of them: pairs (image (1, S, S) in [0, 1], target (S, S) of 0 and 1) of
    float32. Number i is the same for the same seed and options on every machine; `pathfinder[i]` gives it alone."""

    def __init__(
        self,
        size=150,
        contour_length=14,
        distractors=15,
        *,
        window=0,
        distractor_length=0,
        thickness=1.5,
        random_flips=False,
        seed=0,
        first=0,
        count=None,
    ):
        self._generator = _settle.Pathfinder(
            size, window, contour_length, distractors, distractor_length, thickness, random_flips
        )
        self.seed, self.first, self.count = seed, first, count

    def __getitem__(self, index):
        if index < 0 or (self.count is not None and index >= self.count):
            raise IndexError(index)
        image, target = self._generator.sample(self.seed, self.first + index)
        return _numpy(image).copy(), _numpy(target).copy()

    def __len__(self):
        if self.count is None:
            raise TypeError("the images have no end: give a count")
        return self.count

    def __iter__(self):
        index = 0
        while self.count is None or index < self.count:
            yield self[index]
            index += 1


def set_threads(count):
    """The number of threads that compute."""
    _settle.set_threads(count)
