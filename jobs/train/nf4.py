"""Frozen linear layers in 4 bits: NormalFloat with double quantisation (QLoRA, Dettmers et al. 2023, arXiv 2305.14314).

    weight --blocks of 64--> 4-bit codes + one scale a block --blocks of 256, 8 bits--> codes of scales + mean + fp32 scales
    forward and backward: codes --dequantise--> weight in the compute type, thrown away again

0.516 bytes a number. Bit for bit what the PyTorch implementation of
bitsandbytes 0.50.2 computes (blocksize 64, compress_statistics); its compiled CPU kernel rounds one scale in a thousand to the
second nearest level. The library itself keeps codes in a parameter of its own class, which FSDP2 would cut; buffers stay whole.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.train.eight_bit import dynamic_levels

BLOCK = 64
SCALE_BLOCK = 256
"""Both as in the paper, section 3."""

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The paper's appendix E: quantiles of a normal distribution, with an exact 0."""


class Quantised(NamedTuple):
    """A weight in 4 bits; all tensors are flat."""

    codes: Tensor
    """uint8, two levels in each."""
    scale_codes: Tensor
    """uint8, one for each block of 64."""
    scale_scales: Tensor
    """float32, one for each 256 blocks."""
    scale_mean: Tensor
    """float32 ()"""


def quantise(weight_OI: Tensor) -> Quantised:
    """Nearest levels of a weight in fp32."""
    codes, scales = _nearest(weight_OI.float(), BLOCK, torch.tensor(LEVELS, device=weight_OI.device))
    mean = scales.mean()
    scale_codes, scale_scales = _nearest(scales - mean, SCALE_BLOCK, _scale_levels(weight_OI.device))
    if codes.numel() % 2:
        codes = F.pad(codes, (0, 1), value=LEVELS.index(0.0))
    return Quantised((codes[::2] << 4) | codes[1::2], scale_codes, scale_scales, mean)


def dequantise(quantised: Quantised, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The weight that the codes stand for; products in fp32, then cast."""
    device = quantised.codes.device
    numbers = math.prod(shape)
    levels = torch.tensor(LEVELS, device=device)
    codes = torch.stack([quantised.codes >> 4, quantised.codes & 15], dim=1).flatten()[:numbers]
    scales = _scaled(_scale_levels(device)[quantised.scale_codes.int()], quantised.scale_scales, SCALE_BLOCK)
    scales = scales + quantised.scale_mean
    return _scaled(levels[codes.int()], scales, BLOCK).to(dtype).view(shape)


def rounded(weight_OI: Tensor) -> Tensor:
    """What remains of a weight after 4 bits, in fp32: the base that adapters were trained on."""
    rows, columns = weight_OI.shape
    return dequantise(quantise(weight_OI), (rows, columns), torch.float32)


class Nf4Linear(nn.Module):
    """A frozen linear layer. Its codes are buffers, so FSDP leaves them whole on every rank."""

    def __init__(self, linear: nn.Linear) -> None:
        """Takes shape, device and bias; `set_weight` gives it its codes."""
        super().__init__()
        self.shape = (linear.out_features, linear.in_features)
        self.bias = linear.bias
        numbers, device = math.prod(self.shape), linear.weight.device
        blocks = -(-numbers // BLOCK)
        self._add("codes", torch.empty(-(-numbers // 2), dtype=torch.uint8, device=device))
        self._add("scale_codes", torch.empty(blocks, dtype=torch.uint8, device=device))
        self._add("scale_scales", torch.empty(-(-blocks // SCALE_BLOCK), device=device))
        self._add("scale_mean", torch.empty((), device=device))

    def _add(self, name: str, buffer: Tensor) -> None:
        self.register_buffer(name, buffer, persistent=False)

    @property
    def quantised(self) -> Quantised:
        return Quantised(*(self.get_buffer(name) for name in Quantised._fields))

    def set_weight(self, weight_OI: Tensor) -> None:
        """Quantises a weight into the buffers."""
        for mine, given in zip(self.quantised, quantise(weight_OI), strict=True):
            mine.copy_(given)

    def forward(self, input_TI: Tensor) -> Tensor:
        product_TO: Tensor = _Product.apply(input_TI, self.shape, *self.quantised)
        return product_TO if self.bias is None else product_TO + self.bias


def replace_linears(layers: nn.Module) -> None:
    """Makes every frozen linear layer of the decoder an Nf4Linear."""
    found = [
        (path, module)
        for path, module in layers.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.requires_grad
    ]
    for path, linear in found:
        layers.set_submodule(path, Nf4Linear(linear))


def nf4_layers(module: nn.Module) -> dict[str, Nf4Linear]:
    """By the name their weight would have as a parameter."""
    return {f"{path}.weight": part for path, part in module.named_modules() if isinstance(part, Nf4Linear)}


def nf4_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """(out, in) by the name the weight would have."""
    return {name: layer.shape for name, layer in nf4_layers(module).items()}


class _Product(torch.autograd.Function):
    """x W^T. The weight is made again for the backward pass: kept, it would cost what 4 bits save."""

    @staticmethod
    def forward(ctx: Any, input_TI: Tensor, shape: tuple[int, int], *quantised: Tensor) -> Tensor:
        ctx.shape, ctx.quantised = shape, quantised
        return input_TI @ dequantise(Quantised(*quantised), shape, input_TI.dtype).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_TO,) = grads
        weight_OI = dequantise(Quantised(*ctx.quantised), ctx.shape, grad_TO.dtype)
        return grad_TO @ weight_OI, None, None, None, None, None


def _nearest(values: Tensor, block: int, levels: Tensor) -> tuple[Tensor, Tensor]:
    """(uint8 index of the nearest level, flat; the largest magnitude of each block)."""
    flat = values.reshape(-1)
    blocks = F.pad(flat, (0, -flat.numel() % block)).view(-1, block)
    largest = blocks.abs().amax(1)
    relative = (blocks * (1.0 / largest.clamp(min=1e-38))[:, None]).clamp(-1, 1)
    middles = (levels[:-1] + levels[1:]) / 2
    codes = torch.bucketize(relative.view(-1)[: flat.numel()], middles, out_int32=True)
    return codes.to(torch.uint8), largest


def _scaled(values: Tensor, scales: Tensor, block: int) -> Tensor:
    return values * scales.repeat_interleave(block)[: values.numel()]


def _scale_levels(device: torch.device) -> Tensor:
    return dynamic_levels(signed=True).to(device)
