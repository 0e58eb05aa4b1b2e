#!/usr/bin/env python3
"""Converts weights to safetensors under the names that this library's Panoptic FPN has (detectron2's).

    scripts/convert_detectron2.py model_final.pkl panoptic_fpn.safetensors       a model of detectron2's zoo
    scripts/convert_detectron2.py resnet50.pth backbone.safetensors              a ResNet of torchvision

A .pkl needs NumPy, a .pth PyTorch; a .pkl can run any code when it is read, so only convert files of those you trust.
torchvision's ResNets stride in the 3 x 3 convolution and see red, green, blue with
the mean (123.675, 116.28, 103.53) and the deviation (58.395, 57.12, 57.375) of 0 ... 255; detectron2's models are
MSRA's: stride in the first 1 x 1, blue first, deviation 1.
"""
import argparse
import pickle
import re

import numpy as np
import safetensors_file

EPSILON = 1e-5  # of batch norms


def read(path):
    """Names and arrays of a file, its names as they are there."""
    if path.endswith(".pkl"):
        with open(path, "rb") as file:
            data = pickle.load(file, encoding="latin1")
        return {name: np.asarray(value) for name, value in data.get("model", data).items()}
    import torch

    data = torch.load(path, map_location="cpu", weights_only=True)
    return {name: value.numpy() for name, value in data.get("model", data).items()}


def from_torchvision(name):
    """The name of a part of torchvision's ResNet, or None where there is none here."""
    name = re.sub(r"^bn1\.", "stem.conv1.norm.", re.sub(r"^conv1\.", "stem.conv1.", name))
    name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
    name = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", name)
    name = name.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")
    return None if name.startswith("fc.") else "backbone.bottom_up." + name


def converted(arrays):
    out = {}
    torchvision = "layer1.0.conv1.weight" in arrays
    for name, value in arrays.items():
        if torchvision:
            name = from_torchvision(name)
        # What follows from options is not a weight; a recurrent head is listed twice in the released checkpoints.
        if name is None or re.search(r"num_batches_tracked|anchor_generator|pixel_(mean|std)|mask_fcn_rnn", name):
            continue
        out[name] = np.ascontiguousarray(value, dtype=np.float32)
    for name in [n for n in out if n.startswith("backbone.bottom_up.") and n.endswith(".norm.weight")]:
        prefix = name[: -len("weight")]  # MSRA's norms are a factor and a number alone
        out.setdefault(prefix + "running_mean", np.zeros_like(out[name]))
        out.setdefault(prefix + "running_var", np.full_like(out[name], 1 - EPSILON))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="weights as .pkl (detectron2) or .pth (torchvision)")
    parser.add_argument("target", help="the safetensors file to write")
    arguments = parser.parse_args()
    arrays = converted(read(arguments.source))
    safetensors_file.write(arguments.target, arrays)
    print(f"{len(arrays)} tensors, {sum(a.size for a in arrays.values())} numbers")


if __name__ == "__main__":
    main()
