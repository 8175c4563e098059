"""AdamW's moments in 8 bits, block by block (Dettmers et al. 2021, arXiv 2110.02861).

    fp32 (rows, ...) --largest magnitude of each block--> codes uint8 (rows, blocks, block) + scales fp32 (rows, blocks)

Blocks lie inside a row: a rank holds whole rows, so a saved state goes to any other number of ranks without being quantised
again. (Blocks of bitsandbytes' and torchao's optimizers run through the flat tensor of a rank.)
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST_BLOCK = 256
"""As in bitsandbytes' and torchao's optimizers."""
FEWEST_NUMBERS = 4096
"""Smaller tensors keep fp32 moments, as in both libraries: they are no memory to speak of."""
DECADES = 7
"""Powers of ten the levels reach down to."""
HALVES = 1 << 16
"""How many fp16 numbers there are."""


class EightBit:
    """A moment of the rows of one parameter; all zero at first."""

    def __init__(self, rows: Tensor, signed: bool) -> None:
        """Args:
        rows: (rows, ...), of which shape and device are taken.
        signed: False for numbers >= 0, whose levels are twice as dense.
        """
        self.signed, self.width = signed, math.prod(rows.shape[1:])
        blocks = -(-self.width // LARGEST_BLOCK)
        shape = (rows.shape[0], blocks, -(-self.width // blocks))
        self.codes = torch.zeros(shape, dtype=torch.uint8, device=rows.device)
        self.scales = torch.zeros(shape[:2], device=rows.device)
        """The largest magnitude of each block."""

    def read(self, first: int, last: int) -> Tensor:
        """fp32 (last - first, width): the numbers of some rows."""
        codes = self.codes[first:last]
        levels, _ = _tables(self.signed, codes.device)
        values = levels.index_select(0, codes.flatten().int()).view(codes.shape)
        values *= self.scales[first:last, :, None]
        return values.flatten(1)[:, : self.width].contiguous()

    def write(self, first: int, last: int, values_RW: Tensor) -> None:
        """Sets some rows to the levels nearest to fp32 numbers; in which of 65,536 steps a number lies decides."""
        codes, scales = self.codes[first:last], self.scales[first:last]
        blocks = F.pad(values_RW, (0, codes[0].numel() - self.width)).view(codes.shape)
        torch.amax(blocks.abs(), dim=2, out=scales)
        relative = blocks / scales[:, :, None].clamp_min(torch.finfo(torch.float32).tiny)
        _, nearest = _tables(self.signed, codes.device)
        place = relative.half().view(torch.uint16).flatten().int()
        found = nearest.index_select(0, place).view(codes.shape)
        # Of a number > 0 never 0: Adam divides by the root of it, and a first moment that outlives a second one that was
        # rounded away makes steps of a hundred times the learning rate.
        codes.copy_(found if self.signed else torch.maximum(found, blocks > 0))


def dynamic_levels(signed: bool) -> Tensor:
    """fp32 (256,) rising from -1 or 0 to 1: an exponent of base 10 and the rest linear (Dettmers 2016, arXiv 1511.04561)."""
    positive: list[float] = []
    for exponent in range(DECADES):
        edges = torch.linspace(0.1, 1, 2 ** (exponent + (not signed)) + 1)
        positive += (10 ** (exponent - DECADES + 1) * ((edges[:-1] + edges[1:]) / 2.0)).tolist()
    negative = [-level for level in positive] if signed else []
    return torch.tensor(sorted([*negative, 0.0, *positive, 1.0]))


@functools.cache
def _tables(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """(the levels; uint8 (65536,) for every fp16 number, in the order of its bits, the code of the nearest level).

    The search through 255 boundaries is made once: for every number it is 20 times slower than looking it up.
    """
    levels = dynamic_levels(signed)
    halves = torch.arange(HALVES, dtype=torch.int32).to(torch.uint16).view(torch.float16).float()
    nearest = torch.bucketize(halves, (levels[:-1] + levels[1:]) / 2, out_int32=True).to(torch.uint8)
    return levels.to(device), nearest.to(device)
