"""AdamW on the fp32 rows a rank owns, and the learning rate as a function of the step.

Decoupled weight decay and cosine schedule: Loshchilov & Hutter, arXiv 1711.05101; linear warm-up: Goyal et al., 1706.02677.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from configs.schema.training import Optimizer


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

    def __init__(self, rows: Mapping[str, Tensor], matrices: frozenset[str], settings: Optimizer) -> None:
        """Args:
        rows: fp32 (rows, ...) by parameter name.
        matrices: names of the parameters with two dimensions; weight decay is for them, not for norms and biases.
        """
        self.settings = settings
        self.matrices = matrices
        self.exp_avg = {name: torch.zeros_like(values) for name, values in rows.items()}
        self.exp_avg_sq = {name: torch.zeros_like(values) for name, values in rows.items()}
        self.steps_done = torch.zeros(1)
        """(1,) fp32, for bias correction; a tensor because it is saved like one."""

    def step(self, rows: Mapping[str, Tensor], gradients: Mapping[str, Tensor], rate: float) -> None:
        """One update in place."""
        owned = [name for name, values in rows.items() if values.numel()]
        decayed = [name for name in owned if name in self.matrices]
        others = [name for name in owned if name not in self.matrices]
        for names, weight_decay in ((decayed, self.settings.weight_decay), (others, 0.0)):
            adamw(
                [rows[name] for name in names],
                [gradients[name] for name in names],
                [self.exp_avg[name] for name in names],
                [self.exp_avg_sq[name] for name in names],
                [],
                [
                    self.steps_done[0].clone().to(rows[name].device) for name in names
                ],  # the kernel counts each up by one
                fused=True,
                amsgrad=False,
                beta1=self.settings.beta1,
                beta2=self.settings.beta2,
                lr=rate,
                weight_decay=weight_decay,
                eps=self.settings.epsilon,
                maximize=False,
            )
        self.steps_done += 1
