"""Keras networks as PyTorch modules, layer by layer, for `benchmarks.speed` to time.

Images are channels first: [n, channels, height, width] where Keras has [n, height, width, channels]. Weights are
copied. Only what the recipes use is translated; anything else is a NotImplementedError that names it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from common.lazy import keras

Function = Callable[..., Any]
"""Tensors of one or more earlier layers -> a tensor."""


class Translated(nn.Module):
    """A functional Keras network: the same layers in the same order, with copies of its weights."""

    def __init__(self, network: keras.Model):
        super().__init__()
        self.parts = nn.ModuleList()
        self.calls: list[tuple[Function, list[int], list[int]]] = []  # places of what goes in, and of what comes out
        places = {id(tensor): place for place, tensor in enumerate(network.inputs)}
        made: dict[int, Any] = {}  # a layer that is called twice has its weights once
        by_depth = network._nodes_by_depth  # Keras has no public way to the order of calls
        for node in (node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]):
            if node.is_input:
                continue
            layer = node.operation
            if id(layer) not in made:
                made[id(layer)] = translate(layer)
                if isinstance(made[id(layer)], nn.Module):
                    self.parts.append(made[id(layer)])
            call = _with_constants(made[id(layer)], node.arguments.args)
            for tensor in node.outputs:
                places[id(tensor)] = len(places)
            given = [places[id(tensor)] for tensor in node.arguments.keras_tensors]
            self.calls.append((call, given, [places[id(tensor)] for tensor in node.outputs]))
        self.results = [places[id(tensor)] for tensor in network.outputs]
        self.count = len(places)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Return the network's output, or a list where Keras has one."""
        values: list[Any] = [*inputs, *[None] * (self.count - len(inputs))]
        for call, given, made in self.calls:
            output = call(*[values[place] for place in given])
            for place, value in zip(made, output if isinstance(output, list) else [output], strict=True):
                values[place] = value
        outputs = [values[place] for place in self.results]
        return outputs if len(outputs) > 1 else outputs[0]


def _with_constants(function: Function, arguments: tuple) -> Function:
    """Return a function of the tensors among the arguments of an operation such as `2 * x` or `x[:, :2]`."""

    def is_tensor(argument: Any) -> bool:
        return all(isinstance(each, keras.KerasTensor) for each in keras.tree.flatten(argument))

    constants = [None if is_tensor(each) else each for each in arguments]
    if all(each is None for each in constants):
        return function

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        left = iter(tensors)
        return function(*[next(left) if each is None else each for each in constants])

    return call


def translate(layer: Any) -> Function:
    """Return what does the same in PyTorch as a Keras layer or operation.

    Raises:
        NotImplementedError: there is no translation of such a layer, or not with these settings.
    """
    name = type(layer).__name__
    is_layer = isinstance(layer, keras.layers.Layer)
    made = LAYERS.get(name) if is_layer else OPERATIONS.get(name)
    if made is None:
        raise NotImplementedError(f"no translation of {name} ({layer.name})")
    found: Any = made(layer)
    if isinstance(found, nn.Module) and not layer.trainable:
        found.requires_grad_(False)
    activation = getattr(layer, "activation", None)
    if activation is None or name == "Activation" or activation.__name__ == "linear":
        return found
    return nn.Sequential(found, _Called(_activation(layer)))


def _unsupported(layer: Any, what: str) -> NotImplementedError:
    return NotImplementedError(f"no translation of {type(layer).__name__} ({layer.name}) with {what}")


class _Called(nn.Module):
    """A function as a module, so that it may follow one."""

    def __init__(self, function: Function):
        super().__init__()
        self.forward = function


# %% Layers with weights


def _array(variable: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)


def _fill(parameter: torch.Tensor, value: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(value.copy()))


def _pair(layer: Any, name: str) -> tuple[int, int]:
    return tuple(getattr(layer, name))  # type: ignore[return-value]


def _same(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return how many rows TensorFlow adds before and after for "same": one more after, where they are odd."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


class _Conv2D(nn.Module):
    """A convolution, of single channels too, with TensorFlow's padding."""

    def __init__(self, layer: Any):
        super().__init__()
        if layer.data_format != "channels_last" or _pair(layer, "dilation_rate") != (1, 1):
            raise _unsupported(layer, "dilation, or channels first")
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        kernel = _array(layer.kernel)
        if depthwise:
            self.groups, kernel = kernel.shape[2], kernel.transpose(2, 3, 0, 1)
            kernel = kernel.reshape(-1, 1, *kernel.shape[2:])
        else:
            self.groups, kernel = layer.groups, kernel.transpose(3, 2, 0, 1)
        self.weight = nn.Parameter(torch.from_numpy(kernel.copy()))
        self.bias = nn.Parameter(torch.from_numpy(_array(layer.bias).copy())) if layer.use_bias else None
        self.stride, self.kernel, self.same = _pair(layer, "strides"), kernel.shape[2:], layer.padding == "same"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padding = (0, 0)
        if self.same:
            (top, bottom), (left, right) = map(_same, x.shape[2:], self.kernel, self.stride)
            if top == bottom and left == right:
                padding = top, left
            else:
                x = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)


class _Conv2DTranspose(nn.Module):
    """A transposed convolution; "same" gives `stride` times the size, and leaves out more at the end than before."""

    def __init__(self, layer: Any):
        super().__init__()
        if _pair(layer, "dilation_rate") != (1, 1) or layer.output_padding is not None:
            raise _unsupported(layer, "dilation or output padding")
        self.weight = nn.Parameter(torch.from_numpy(_array(layer.kernel).transpose(3, 2, 0, 1).copy()))
        self.bias = nn.Parameter(torch.from_numpy(_array(layer.bias).copy())) if layer.use_bias else None
        self.stride, kernel = _pair(layer, "strides"), self.weight.shape[2:]
        beyond = [size - step for size, step in zip(kernel, self.stride, strict=True)]  # of the size times the stride
        if min(beyond) < 0:
            raise _unsupported(layer, "strides larger than its kernel")
        same = layer.padding == "same"
        self.before = tuple(size // 2 if same else 0 for size in beyond)
        self.after = [size - 2 * (size // 2) if same else 0 for size in beyond]  # still to be cut off at the end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.conv_transpose2d(x, self.weight, self.bias, self.stride, self.before)
        height, width = (length - more for length, more in zip(x.shape[2:], self.after, strict=True))
        return x[:, :, :height, :width] if any(self.after) else x


def _dense(layer: Any) -> nn.Module:
    if len(layer.kernel.shape) != 2 or layer.input_spec.ndim not in (None, 2):
        raise _unsupported(layer, "inputs of more than two dimensions")
    made = nn.Linear(layer.kernel.shape[0], layer.kernel.shape[1], layer.use_bias, "cpu")
    _fill(made.weight, _array(layer.kernel).T)
    if layer.use_bias:
        _fill(made.bias, _array(layer.bias))
    return made


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Of images or of vectors."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass


def _batch_normalization(layer: Any) -> nn.Module:
    if not (layer.center and layer.scale):
        raise _unsupported(layer, "no scale or no centre")
    made = _BatchNorm(layer.gamma.shape[0], layer.epsilon, 1 - layer.momentum)
    for name, value in (("weight", layer.gamma), ("bias", layer.beta), ("running_mean", layer.moving_mean),
                        ("running_var", layer.moving_variance)):  # fmt: skip
        _fill(getattr(made, name), _array(value))
    return made


def _group_normalization(layer: Any) -> nn.Module:
    channels = layer.gamma.shape[0]
    each = layer.groups == channels
    made = (
        nn.InstanceNorm2d(channels, layer.epsilon, affine=True)
        if each
        else nn.GroupNorm(layer.groups, channels, layer.epsilon)
    )
    _fill(made.weight, _array(layer.gamma))
    _fill(made.bias, _array(layer.beta))
    return made


class _LayerNorm(nn.LayerNorm):
    """Over the channels of each place."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.ndim == 2:
            return super().forward(input)
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


def _layer_normalization(layer: Any) -> nn.Module:
    if layer.gamma is None or layer.beta is None or len(layer.gamma.shape) != 1:
        raise _unsupported(layer, "no scale, no centre, or other axes than the last")
    made = _LayerNorm(layer.gamma.shape[0], layer.epsilon)
    _fill(made.weight, _array(layer.gamma))
    _fill(made.bias, _array(layer.beta))
    return made


# %% Layers without


def _activation(layer: Any) -> Function:
    name = layer.activation.__name__
    if name not in ACTIVATIONS:
        raise _unsupported(layer, f"activation {name}")
    return ACTIVATIONS[name]


ACTIVATIONS: dict[str, Function] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


def _relu(layer: Any) -> Function:
    if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
        raise _unsupported(layer, "these settings")
    return functional.relu6 if layer.max_value == 6 else torch.relu


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x.flatten(1)


def _reshape(layer: Any) -> Function:
    shape = tuple(layer.target_shape)
    if len(shape) != 3:
        raise _unsupported(layer, f"the shape {shape}")
    return lambda x: _flat(x).reshape(-1, *shape).permute(0, 3, 1, 2).contiguous()


def _margins(layer: Any, amounts: Any) -> list[int]:
    (top, bottom), (left, right) = amounts
    return [left, right, top, bottom]


def _zero_padding(layer: Any) -> Function:
    margins = _margins(layer, layer.padding)
    return lambda x: functional.pad(x, margins)


def _pooling(function: Function, layer: Any) -> Function:
    if layer.padding != "valid":
        raise _unsupported(layer, f"padding {layer.padding}")
    return functools.partial(function, kernel_size=_pair(layer, "pool_size"), stride=_pair(layer, "strides"))


def _up_sampling(layer: Any) -> Function:
    if layer.interpolation not in ("nearest", "bilinear"):
        raise _unsupported(layer, f"interpolation {layer.interpolation}")
    factors = tuple(map(float, layer.size))
    return lambda x: functional.interpolate(x, scale_factor=factors, mode=layer.interpolation)


class _GaussianNoise(nn.Module):
    def __init__(self, layer: Any):
        super().__init__()
        self.deviation = layer.stddev

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.deviation * torch.randn_like(x) if self.training else x


def _rescaling(layer: Any) -> Function:
    scale, offset = (torch.tensor(each, dtype=torch.float32) for each in (layer.scale, layer.offset))
    if scale.ndim and not layer.scale:
        raise _unsupported(layer, "an empty scale")
    return lambda x: x * scale + offset  # of vectors, or by one number


def _concatenate(layer: Any) -> Function:
    if layer.axis != -1 and not (layer.axis == 1 and layer.output.ndim == 2):
        raise _unsupported(layer, f"axis {layer.axis}")
    return lambda *tensors: torch.cat(tensors, dim=1)


def _sum(*tensors: torch.Tensor) -> torch.Tensor:
    return functools.reduce(operator.add, tensors)


LAYERS: dict[str, Callable[[Any], Function]] = {
    "Activation": _activation,
    "Add": lambda layer: _sum,
    "AveragePooling2D": functools.partial(_pooling, functional.avg_pool2d),
    "BatchNormalization": _batch_normalization,
    "Concatenate": _concatenate,
    "Conv2D": _Conv2D,
    "Conv2DTranspose": _Conv2DTranspose,
    "Dense": _dense,
    "DepthwiseConv2D": _Conv2D,
    "Dropout": lambda layer: nn.Dropout(layer.rate),
    "Flatten": lambda layer: _flat,
    "Functional": Translated,
    "GaussianNoise": _GaussianNoise,
    "GlobalAveragePooling2D": lambda layer: lambda x: x.mean((2, 3)),
    "GroupNormalization": _group_normalization,
    "LayerNormalization": _layer_normalization,
    "LeakyReLU": lambda layer: nn.LeakyReLU(layer.negative_slope),
    "MaxPooling2D": functools.partial(_pooling, functional.max_pool2d),
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "UpSampling2D": _up_sampling,
    "ZeroPadding2D": _zero_padding,
}

# %% Operations: keras.ops in a network


def _padded(operation: Any) -> Function:
    batch, *sides, channels = operation.pad_width
    if operation.mode not in ("constant", "reflect") or tuple(batch) != (0, 0) or tuple(channels) != (0, 0):
        raise _unsupported(operation, f"mode {operation.mode}, or of other axes than height and width")
    return functools.partial(functional.pad, pad=_margins(operation, sides), mode=operation.mode)


def _cropped(operation: Any) -> Function:
    top, left = operation.top_cropping, operation.left_cropping
    height, width = operation.target_height, operation.target_width
    if None in (top, left, height, width):
        raise _unsupported(operation, "sides that are not given by their beginning and length")
    return lambda x: x[:, :, top : top + height, left : left + width]


def _item(x: torch.Tensor, key: Any) -> torch.Tensor:
    if x.ndim != 2:
        raise NotImplementedError("no translation of GetItem of images")
    return x[key]


def _resized(operation: Any) -> Function:
    size = tuple(operation.size)
    if operation.interpolation != "bilinear" or operation.antialias:
        raise _unsupported(operation, f"interpolation {operation.interpolation}")

    def resize(x: torch.Tensor) -> torch.Tensor:
        return x if x.shape[2:] == size else functional.interpolate(x, size, mode="bilinear")

    return resize


OPERATIONS: dict[str, Callable[[Any], Function]] = {
    "Add": lambda operation: operator.add,
    "Concatenate": _concatenate,
    "CropImages": _cropped,
    "Exp": lambda operation: torch.exp,
    "GetItem": lambda operation: _item,
    "Multiply": lambda operation: operator.mul,
    "Pad": _padded,
    "Relu": lambda operation: torch.relu,
    "Resize": _resized,
    "Sqrt": lambda operation: torch.sqrt,
    "Subtract": lambda operation: operator.sub,
    "TrueDivide": lambda operation: operator.truediv,
    "ZerosLike": lambda operation: torch.zeros_like,
}
