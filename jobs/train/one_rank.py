"""A whole model on one rank: fp32 masters, weights in the compute type, gradients added up in fp32.

    rows (masters) --copy after each change--> weights the module computes with --backward--> gradients, fp32

The same arithmetic as one shard of FSDP2 (jobs/train/fsdp.py) without the copies it makes for collectives: they cost 7 % of
a step of 4,096 tokens with a 135M model on CPU (tests/benchmarks/train_overhead.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from jobs.train.model import PackedModel, allocate


@dataclass
class WholeRows:
    """One parameter, all rows of it."""

    parameter: nn.Parameter
    """What the module computes with."""
    values: Tensor
    """(rows, ...) what is trained and saved: an fp32 master, or the parameter's own storage where that is the same."""
    _added: Tensor | None = None

    @property
    def first_row(self) -> int:
        return 0

    @property
    def rows(self) -> int:
        return self.parameter.shape[0]

    @property
    def full_shape(self) -> tuple[int, ...]:
        return tuple(self.parameter.shape)

    @property
    def has_master(self) -> bool:
        return self.values.data_ptr() != self.parameter.data_ptr()

    @property
    def gradient(self) -> Tensor:
        """(rows, ...) fp32; there must be one."""
        gradient = self._added if self.has_master else self.parameter.grad
        assert gradient is not None, "no gradient: forward_backward has not run, or the parameter is unused"
        return gradient

    def add_gradient(self, parameter: Tensor) -> None:
        """Takes the gradient of one backward pass out of the parameter, as soon as it is there."""
        assert parameter.grad is not None
        if self._added is None:
            self._added = parameter.grad.float()
        else:
            self._added.add_(parameter.grad)
        parameter.grad = None

    def forget_gradient(self) -> None:
        self._added = None
        self.parameter.grad = None


class WholeModel:
    """The counterpart of fsdp.ShardedModel for a mesh of one rank."""

    def __init__(self, module: PackedModel, mesh: DeviceMesh, compute_type: torch.dtype) -> None:
        self.module, self.mesh = module, mesh
        self.rows: dict[str, WholeRows] = {}
        self._compute_type = compute_type
        self._changed = False

    def allocate(self, device: torch.device) -> None:
        """Memory for masters and weights; pages of the latter are touched at the first forward pass only."""
        for parameter in self.module.parameters():
            parameter.data = parameter.data.to(self._compute_type)
        allocate(self.module, device)
        for name, parameter in self.module.named_parameters():
            trained_in_copy = parameter.requires_grad and self._compute_type is torch.bfloat16
            values = torch.empty(parameter.shape, device=device) if trained_in_copy else parameter.detach()
            self.rows[name] = WholeRows(parameter, values)
            if trained_in_copy:
                parameter.register_post_accumulate_grad_hook(self.rows[name].add_gradient)
        self._changed = True

    def begin_backward_of(self, micro_batch: int, micro_batches: int) -> None:
        """Nothing to decide: no other rank waits for a sum."""

    @torch.no_grad()
    def before_forward(self) -> None:
        """Brings the weights up to date with the masters."""
        if self._changed:
            for rows in self.rows.values():
                if rows.has_master:
                    rows.parameter.copy_(rows.values)
            self._changed = False

    def rows_changed(self) -> None:
        """Must follow every write to `values`."""
        self._changed = True

    def forget_gradients(self) -> None:
        for rows in self.rows.values():
            rows.forget_gradient()
