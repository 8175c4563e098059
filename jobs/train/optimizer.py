"""AdamW on the fp32 rows a rank owns, its moments in fp32 or 8 bits, and the learning rate as a function of the step.

Decoupled weight decay and cosine schedule: Loshchilov & Hutter, arXiv 1711.05101; linear warm-up: Goyal et al., 1706.02677.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from configs.schema.training import Optimizer
from jobs.train.eight_bit import FEWEST_NUMBERS, EightBit

PIECE = 1 << 18
"""Numbers whose 8-bit moments are in fp32 at a time: 1 MiB each stays in a core's cache (10 ns a number, 14 with 2^20)."""


def learning_rate(step: int, total_steps: int, optimizer: Optimizer) -> float:
    """The rate of step `step`, counted from 0 to `total_steps` - 1.

    It rises linearly over the first `warmup_fraction` of all steps, the first of them already above 0, reaches
    `learning_rate`, and falls along half a cosine to `final_rate_fraction` of it in the last step.
    """
    assert 0 <= step < total_steps, (step, total_steps)
    warmup = round(optimizer.warmup_fraction * total_steps)
    if step < warmup:
        return optimizer.learning_rate * (step + 1) / warmup
    decay_steps = total_steps - 1 - warmup
    progress = (step - warmup) / decay_steps if decay_steps > 0 else 0.0
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    final = optimizer.final_rate_fraction
    return optimizer.learning_rate * (final + (1 - final) * cosine)


class AdamW:
    """The moments of the rows of one rank."""

    def __init__(
        self, rows: Mapping[str, Tensor], full_shapes: Mapping[str, tuple[int, ...]], settings: Optimizer
    ) -> None:
        """Args:
        rows: fp32 (rows, ...) by parameter name.
        full_shapes: of the whole parameters. Weight decay is for those with two dimensions, not for norms and biases.
        """
        self.settings = settings
        self.matrices = frozenset(name for name, shape in full_shapes.items() if len(shape) > 1)
        # By the whole tensor, so that a state has the same parts on any number of ranks.
        small = {name for name, shape in full_shapes.items() if math.prod(shape) < FEWEST_NUMBERS}
        in_full = {
            name: values
            for name, values in rows.items()
            if settings.state == "fp32" or name in small or name not in self.matrices
        }
        self.exp_avg = {name: torch.zeros_like(values) for name, values in in_full.items()}
        self.exp_avg_sq = {name: torch.zeros_like(values) for name, values in in_full.items()}
        self.eight_bit = {
            name: (EightBit(values, signed=True), EightBit(values, signed=False))
            for name, values in rows.items()
            if name not in in_full
        }
        """(exp_avg, exp_avg_sq) of the parameters whose moments are in 8 bits."""
        self.steps_done = torch.zeros(1)
        """(1,) fp32, for bias correction; a tensor because it is saved like one."""

    def step(self, rows: Mapping[str, Tensor], gradients: Mapping[str, Tensor], rate: float) -> None:
        """One update in place."""
        owned = [name for name, values in rows.items() if values.numel()]
        in_full = [name for name in owned if name in self.exp_avg]
        for names in (
            [name for name in in_full if name in self.matrices],
            [name for name in in_full if name not in self.matrices],
        ):
            self._update(
                [rows[name] for name in names], [gradients[name] for name in names],
                [self.exp_avg[name] for name in names], [self.exp_avg_sq[name] for name in names],
                rate, self.settings.weight_decay if names and names[0] in self.matrices else 0.0,
            )  # fmt: skip
        for name in (name for name in owned if name in self.eight_bit):
            self._update_eight_bit(name, rows[name], gradients[name], rate)
        self.steps_done += 1

    def moments(self) -> dict[str, Tensor]:
        """All that is kept of the moments, as views by name: exp_avg/NAME, exp_avg_sq/NAME, and of those in 8 bits
        their scales as exp_avg_scale/NAME, exp_avg_sq_scale/NAME."""
        kept = {f"exp_avg/{name}": values for name, values in self.exp_avg.items()}
        kept |= {f"exp_avg_sq/{name}": values for name, values in self.exp_avg_sq.items()}
        for name, pair in self.eight_bit.items():
            for kind, moment in zip(("exp_avg", "exp_avg_sq"), pair, strict=True):
                kept |= {f"{kind}/{name}": moment.codes, f"{kind}_scale/{name}": moment.scales}
        return kept

    def _update_eight_bit(self, name: str, rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Piece by piece: the update of a row needs nothing of the others."""
        exp_avg, exp_avg_sq = self.eight_bit[name]
        values_RW, gradient_RW = rows.view(len(rows), -1), gradient.view(len(rows), -1)
        at_once = max(1, PIECE // exp_avg.width)
        for first in range(0, len(rows), at_once):
            last = min(first + at_once, len(rows))
            moments = [exp_avg.read(first, last)], [exp_avg_sq.read(first, last)]
            self._update([values_RW[first:last]], [gradient_RW[first:last]], *moments, rate, self.settings.weight_decay)
            exp_avg.write(first, last, moments[0][0])
            exp_avg_sq.write(first, last, moments[1][0])

    def _update(
        self,
        rows: list[Tensor],
        gradients: list[Tensor],
        exp_avg: list[Tensor],
        exp_avg_sq: list[Tensor],
        rate: float,
        weight_decay: float,
    ) -> None:
        adamw(
            rows, gradients, exp_avg, exp_avg_sq, [],
            [self.steps_done[0].clone().to(values.device) for values in rows],  # the kernel counts each up by one
            fused=True, amsgrad=False, beta1=self.settings.beta1, beta2=self.settings.beta2, lr=rate,
            weight_decay=weight_decay, eps=self.settings.epsilon, maximize=False,
        )  # fmt: skip
