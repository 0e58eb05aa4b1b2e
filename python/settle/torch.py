"""Cells of settle as PyTorch modules: their steps run in C++, and take part in PyTorch's gradients."""
import torch

from . import _settle


def _type(tensor):
    names = {torch.float32: "float32", torch.float64: "float64"}
    if tensor.dtype not in names or tensor.device.type != "cpu":
        raise TypeError(f"expected float32 or float64 on the processor, got {tensor.dtype} on {tensor.device}")
    return names[tensor.dtype]


def _step(state, drive, parameters):
    step = getattr(_settle, "hgru_step_" + _type(state))
    return step(state.detach().contiguous(), drive.detach().contiguous(), [p.detach().contiguous() for p in parameters])


class _HgruStep(torch.autograd.Function):
    @staticmethod
    def forward(context, state, drive, *parameters):
        context.save_for_backward(state, drive, *parameters)
        context.step = _step(state, drive, parameters)
        return torch.from_dlpack(context.step.value())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, cotangent):
        context.saved_tensors  # the step reads their memory: PyTorch refuses if they were changed meanwhile
        return tuple(torch.from_dlpack(g) for g in context.step.pull(cotangent.detach().contiguous()))


class _HgruFixedPoint(torch.autograd.Function):
    @staticmethod
    def forward(context, steps, products, state, drive, *parameters):
        context.save_for_backward(state, drive, *parameters)
        for _ in range(steps):
            context.step = _step(state, drive, parameters)
            state = torch.from_dlpack(context.step.value())
        context.products = products
        return state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, cotangent):
        context.saved_tensors  # as above
        total = cotangent = cotangent.detach().contiguous()
        for _ in range(context.products):
            total = cotangent + torch.from_dlpack(context.step.pull(total)[0])
        _, *gradients = (torch.from_dlpack(g) for g in context.step.pull(total))
        return (None, None, None, *gradients)


class HgruCell(torch.nn.Module):
    """The hGRU cell: cell(h, x) is the next state, for a state and a drive (N, C, H, W). Its parameters bear the names
    of the released code, and so are those of a trained net's cell under "unit1."."""

    def __init__(self, channels, kernel=15, seed=0, dtype=torch.float32):
        super().__init__()
        initial = getattr(_settle, "hgru_parameters_" + _type(torch.empty(0, dtype=dtype)))
        self._names = []
        for name, value in initial(channels, kernel, seed):
            *parts, last = name.split(".")
            holder = self
            for part in parts:
                if not hasattr(holder, part):
                    holder.add_module(part, torch.nn.Module())
                holder = getattr(holder, part)
            holder.register_parameter(last, torch.nn.Parameter(torch.from_dlpack(value)))
            self._names.append(name)

    def forward(self, state, drive):
        return _HgruStep.apply(state, drive, *self._values())

    def settle(self, state, drive, steps=20, products=15):
        """The state after so many steps, taken as a fixed point: memory is that of one step, and the gradient is that
        of the last step's implicit equation, its inverse as a Neumann series of so many products with the step's
        Jacobian (recurrent back-propagation). The state that it starts from gets no gradient."""
        if steps < 1 or products < 0:
            raise ValueError(f"expected at least 1 step and 0 products, got {steps} and {products}")
        return _HgruFixedPoint.apply(steps, products, state, drive, *self._values())

    def _values(self):
        return [self.get_parameter(name) for name in self._names]
