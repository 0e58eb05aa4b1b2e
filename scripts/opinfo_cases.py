#!/usr/bin/env python3
"""Writes what PyTorch gives for its own sample inputs (torch.testing's OpInfo): tests/ops/opinfo.cpp compares with it.

    pip install torch numpy expecttest
    python3 scripts/opinfo_cases.py FOLDER
    SETTLE_OPINFO=FOLDER build/tests/settle_opinfo_tests

For each operation below it takes PyTorch's reference inputs, or the sample inputs where there are no more, in double
precision. FOLDER then has cases.json and tensors.safetensors. A case has the operation's name (with OpInfo's variant
after a colon), arguments by their names, outputs, a random cotangent of each output that is not of integers, and the
gradients of those inputs that PyTorch differentiates. An argument is a number, a boolean, a text (also "inf", "nan"),
{"tensor": its name} or a list of these; what is None is left out. A case that cannot be written says why: "left_out".
"""
import argparse
import json
import math
import pathlib
import warnings

import safetensors_file
import torch
from torch.testing._internal.common_methods_invocations import op_db

# The names of positional arguments, the sample's own input first; a star takes all that follow as one list.
REDUCTION = "input dim keepdim"
UNARY = "input"
BINARY = "input other"
SIGNATURES = {
    **dict.fromkeys(("abs atan ceil cos erf erfc exp expm1 floor log log1p neg reciprocal round rsqrt sigmoid sin "
                     "special.ndtr sqrt square tanh t mT msort nn.functional.logsigmoid nn.functional.relu "
                     "nn.functional.silu nn.functional.gelu").split(), UNARY),
    **dict.fromkeys("add div maximum minimum mul rsub sub true_divide dot mv mm bmm matmul".split(), BINARY),
    **dict.fromkeys("sum mean amax amin prod logsumexp argmax argmin max min var_mean".split(), REDUCTION),
    **dict.fromkeys("softmax log_softmax cumsum nn.functional.softmin".split(), "input dim dtype"),
    **dict.fromkeys("var std".split(), "input dim unbiased keepdim"),
    **dict.fromkeys("reshape view expand broadcast_to permute repeat".split(), "input *sizes"),
    **dict.fromkeys("squeeze unsqueeze".split(), "input dim"),
    **dict.fromkeys("nn.functional.max_pool1d nn.functional.max_pool2d".split(),
                    "input kernel_size stride padding dilation ceil_mode return_indices"),
    **dict.fromkeys("nn.functional.avg_pool1d nn.functional.avg_pool2d".split(),
                    "input kernel_size stride padding ceil_mode count_include_pad divisor_override"),
    **dict.fromkeys("nn.functional.adaptive_avg_pool2d nn.functional.adaptive_max_pool2d".split(),
                    "input output_size return_indices"),
    **dict.fromkeys("nn.functional.conv1d nn.functional.conv2d".split(),
                    "input weight bias stride padding dilation groups"),
    **dict.fromkeys("nn.functional.mse_loss nn.functional.l1_loss nn.functional.smooth_l1_loss".split(),
                    "input target"),
    "pow": "input exponent", "clamp": "input min max", "clamp_min": "input min", "clamp_max": "input max",
    "where": "input condition other", "masked_fill": "input mask value",
    "nn.functional.softplus": "input beta threshold",
    "sort": "input dim descending", "argsort": "input dim descending", "topk": "input k dim largest sorted",
    "gather": "input dim index", "take_along_dim": "input indices dim", "scatter": "input dim index src",
    "scatter_add": "input dim index src", "index_select": "input dim index", "index_add": "input dim index source",
    "nn.functional.embedding": "weight input",
    "nn.functional.pad": "input pad mode value", "constant_pad_nd": "input pad value",
    "nn.functional.interpolate": "input size scale_factor mode align_corners",
    "nn.functional.upsample_nearest": "input size scale_factor",
    "_upsample_bilinear2d_aa": "input output_size align_corners scales_h scales_w",
    "nn.functional.conv_transpose2d": "input weight bias stride padding output_padding groups dilation",
    "nn.functional.linear": "input weight bias",
    "nn.functional.cross_entropy": "input target weight size_average ignore_index reduce reduction label_smoothing",
    "nn.functional.binary_cross_entropy_with_logits": "input target",
    "nn.functional.layer_norm": "input normalized_shape weight bias eps",
    "nn.functional.group_norm": "input num_groups weight bias eps",
    "nn.functional.batch_norm": "input running_mean running_var weight bias training momentum eps",
    "nn.functional.scaled_dot_product_attention": "query key value attn_mask dropout_p is_causal",
    "transpose": "input dim0 dim1", "movedim": "input source destination", "flatten": "input start_dim end_dim",
    "narrow": "input dim start length", "slice": "input dim start end step", "select": "input dim index",
    "max:binary": BINARY, "min:binary": BINARY,
    **dict.fromkeys("var:unbiased std:unbiased var_mean:unbiased".split(), "input unbiased"),
    "cat": "tensors dim", "stack": "tensors dim", "flip": "input *dims",
}
DTYPES = torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool
MOST_ELEMENTS = 20_000  # of a case's tensors together


class LeftOut(Exception):
    """Why a case is not written."""


class Tensors:
    """Tensors by name."""

    def __init__(self):
        self.all = {}

    def add(self, tensor):
        if tensor.dtype not in DTYPES:
            raise LeftOut(f"a tensor of {tensor.dtype}")
        if tensor.layout != torch.strided:
            raise LeftOut(f"a tensor of layout {tensor.layout}")
        name = str(len(self.all))
        self.all[name] = tensor.detach().resolve_neg().contiguous().clone()
        return name


def written(value, tensors, inputs):
    """An argument as JSON; tensors to differentiate are put into `inputs` by their names."""
    if isinstance(value, torch.Tensor):
        name = tensors.add(value)
        if value.requires_grad:
            inputs[name] = value
        return {"tensor": name}
    if isinstance(value, (list, tuple)):
        return [written(v, tensors, inputs) for v in value]
    if isinstance(value, complex):
        raise LeftOut("a complex number")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def named_arguments(signature, sample):
    names, values = signature.split(), [sample.input, *sample.args]
    out = {}
    for position, name in enumerate(names):
        if name.startswith("*"):
            rest = values[position:]
            if rest:
                out[name[1:]] = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest
        elif position < len(values):
            out[name] = values[position]
    if len(values) > len(names) and not names[-1].startswith("*"):
        raise LeftOut("arguments that the script has no names for")
    out.update(sample.kwargs)
    # None is what PyTorch takes where nothing is given, and every tensor is of this type as it is.
    return {k: v for k, v in out.items() if v is not None and not (k == "dtype" and v == torch.float64)}


def samples_of(info):
    """All that OpInfo has to compare with; some of its generators cannot make inputs to differentiate."""
    try:
        return list(info.reference_inputs("cpu", torch.float64, requires_grad=True))
    except ValueError:
        return list(info.sample_inputs("cpu", torch.float64, requires_grad=True))


def one_case(info, signature, sample, tensors, random):
    """The case of a sample; throws LeftOut."""
    # Some samples are views that no gradient reaches.
    sample = sample.transform(lambda value: value.detach().clone().requires_grad_(value.requires_grad)
                              if isinstance(value, torch.Tensor) else value)
    inputs = {}
    arguments = {name: written(value, tensors, inputs) for name, value in named_arguments(signature, sample).items()}
    try:
        result = info.op(sample.input, *sample.args, **sample.kwargs)
    except Exception as error:
        raise LeftOut(f"PyTorch refuses it: {str(error).splitlines()[0]}") from error
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    cotangents, total = [], torch.zeros((), dtype=torch.float64)
    for output in outputs:
        cotangents.append(None)
        if output.dtype == torch.float64:
            cotangent = torch.randn(output.shape, dtype=torch.float64, generator=random)
            cotangents[-1] = tensors.add(cotangent)
            total = total + (output * cotangent).sum()
    case = {"arguments": arguments, "outputs": [tensors.add(output) for output in outputs], "cotangents": cotangents,
            "gradients": {}}
    if inputs and total.requires_grad:
        gradients = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
        for (name, tensor), gradient in zip(inputs.items(), gradients):
            case["gradients"][name] = tensors.add(torch.zeros_like(tensor) if gradient is None else gradient)
    return case


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    tensors, cases = Tensors(), []
    for info in op_db:
        if info.name not in SIGNATURES or not info.supports_dtype(torch.float64, "cpu"):
            continue
        name = info.name + (":" + info.variant_test_name if info.variant_test_name else "")
        for sample in samples_of(info):
            before = len(tensors.all)
            try:
                case = one_case(info, SIGNATURES.get(name, SIGNATURES[info.name]), sample, tensors, random)
                size = sum(tensors.all[str(k)].numel() for k in range(before, len(tensors.all)))
                if size > MOST_ELEMENTS:
                    raise LeftOut(f"more than {MOST_ELEMENTS} elements")
            except LeftOut as reason:
                for k in range(before, len(tensors.all)):
                    del tensors.all[str(k)]
                case = {"left_out": str(reason)}
            cases.append({"op": name, **case})
    safetensors_file.write(folder / "tensors.safetensors", {k: v.numpy() for k, v in tensors.all.items()})
    (folder / "cases.json").write_text(json.dumps({"torch": torch.__version__, "cases": cases}))
    print(f"{len(cases)} cases of {len({case['op'] for case in cases})} operations, "
          f"{sum('left_out' in case for case in cases)} left out")


if __name__ == "__main__":
    main()
