"""How a model is spread over ranks: FSDP2, the same over gloo (CPU) and nccl (GPU).

    build_mesh -> shard_model: every decoder layer is a group, embedding + final norm + head are the root group
    forward: gather a group's rows in the compute type; backward: sum its gradients over ranks, keep the own rows in fp32

A parameter is cut along its rows (dimension 0), ceil(rows / ranks) to each rank, fewer or none to the last ones.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from jobs.train.model import PackedModel, allocate
from jobs.train.one_rank import WholeModel

Precision = Literal["bf16", "fp32", "fp64"]
"""What layers compute in. Masters and sums are fp32; with fp64, which tests of exactness use, they are fp64 too."""
COMPUTE_TYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}

KEEP_GATHERED_BYTES = 4 << 30
"""A model whose weights in the compute type fit in 4 GiB (2 billion parameters in bf16) stays gathered from the first
forward pass of a step to its last backward pass, so it is gathered once a step. Larger ones are gathered for each pass."""


def set_threads(threads: int) -> None:
    """Fixes the threads of CPU kernels; sums are split by thread, so the bits of a run depend on it."""
    torch.set_num_threads(threads)


def build_mesh(world_size: int, replicate: int = 1) -> DeviceMesh:
    """The mesh replicate x shard x context over all ranks; torch.distributed must be initialised.

    A group that has NCCL computes on GPUs. One without does not, also where its host has some: they are others', as Ray hides
    none from an actor that asked for none.

    Raises:
        ValueError: `replicate` does not divide the world.
    """
    if world_size % replicate:
        raise ValueError(
            f"{world_size} ranks cannot be cut into {replicate} replicas; choose a divisor of {world_size}"
        )
    device = "cuda" if "nccl" in dist.get_backend_config() else "cpu"
    # One context rank: a segment is never cut over ranks yet, and the axis keeps its place in the mesh.
    shape = (replicate, world_size // replicate, 1)
    return init_device_mesh(device, shape, mesh_dim_names=("replicate", "shard", "context"))


def device_of(mesh: DeviceMesh) -> torch.device:
    """Where this rank computes."""
    return torch.device("cuda", torch.cuda.current_device()) if mesh.device_type == "cuda" else torch.device("cpu")


@dataclass(frozen=True)
class LocalRows:
    """The rows of one parameter that this rank owns."""

    parameter: nn.Parameter
    """A DTensor while sharded; kept from before the first gather, because the module shows the gathered one then."""
    first_row: int
    rows: int
    full_shape: tuple[int, ...]

    @property
    def values(self) -> Tensor:
        """(rows, ...) a view of the parameter's storage on this rank."""
        return cast(DTensor, self.parameter).to_local().detach()

    @property
    def gradient(self) -> Tensor:
        """(rows, ...) the reduced gradient's storage on this rank; there must be one."""
        assert self.parameter.grad is not None, "no gradient: forward_backward has not run, or the parameter is unused"
        return cast(DTensor, self.parameter.grad).to_local()


@dataclass(frozen=True)
class ShardedModel:
    """A model after `shard_model`, with this rank's rows by parameter name."""

    module: PackedModel
    mesh: DeviceMesh
    keep_gathered: bool
    rows: dict[str, LocalRows]
    cpu_offload: bool = False

    def begin_backward_of(self, micro_batch: int, micro_batches: int) -> None:
        """Before the forward pass of micro-batch `micro_batch` (from 1): gradients are summed over ranks after the last.

        Those of a large model after each: a gradient that waits is whole, in fp32, on every rank (280 GB of 70 billion numbers).
        """
        last = micro_batch == micro_batches
        root = cast(FSDPModule, self.module)
        root.set_requires_gradient_sync(last or not self.keep_gathered)
        root.set_reshard_after_backward(last or not self.keep_gathered)

    def allocate(self, device: torch.device) -> None:
        """Memory for this rank's rows; with `cpu_offload` in the host's memory, while buffers stay where it computes."""
        allocate(self.module, torch.device("cpu") if self.cpu_offload else device)
        for part in self.module.modules() if self.cpu_offload else ():
            for name, buffer in part.named_buffers(recurse=False):
                part._buffers[name] = buffer.to(device)

    def before_forward(self) -> None:
        """FSDP gathers by itself."""

    def forget_gradients(self) -> None:
        for rows in self.rows.values():
            rows.parameter.grad = None

    def rows_changed(self) -> None:
        """Must follow a write to `values` outside the optimizer's step: drops gathered copies, which are stale then."""
        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def shard_model(
    module: PackedModel, mesh: DeviceMesh, precision: Precision, cpu_offload: bool = False
) -> ShardedModel | WholeModel:
    """Cuts a model on the meta device into groups and rows, unless one rank has it whole; nothing is allocated yet.

    Args:
        cpu_offload: masters, gradients and moments in the host's memory, by FSDP's own policy, which copies a group to the GPU
            when it is gathered. On a CPU they are there anyway: the same path, and nothing to copy. Not run on a GPU yet.
    """
    on_gpu = mesh.device_type == "cuda"
    if mesh.size() == 1 and not (cpu_offload and on_gpu):
        return WholeModel(module, mesh, COMPUTE_TYPES[precision])
    assert mesh["context"].size() == 1, f"context parallelism is not implemented, the mesh has {mesh['context'].size()}"
    compute_type = COMPUTE_TYPES[precision]
    full_shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    gathered_bytes = sum(math.prod(shape) for shape in full_shapes.values()) * compute_type.itemsize
    keep_gathered = gathered_bytes <= KEEP_GATHERED_BYTES
    data_mesh = mesh["shard"] if mesh["replicate"].size() == 1 else mesh["replicate", "shard"]
    sum_type = torch.promote_types(compute_type, torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=compute_type, reduce_dtype=sum_type, cast_forward_inputs=False)
    offload = CPUOffloadPolicy(pin_memory=on_gpu) if cpu_offload else OffloadPolicy()
    for group in [*module.layers, module]:
        fully_shard(
            group, mesh=data_mesh, mp_policy=policy, offload_policy=offload, reshard_after_forward=not keep_gathered
        )
        _sum_gradients(cast(FSDPModule, group), mesh)
    shards, shard = mesh["shard"].size(), mesh["shard"].get_local_rank()
    rows = {
        name: LocalRows(parameter, *row_range(full_shapes[name][0], shards, shard), full_shapes[name])
        for name, parameter in module.named_parameters()
    }
    return ShardedModel(module, mesh, keep_gathered, rows, cpu_offload)


def row_range(rows: int, shards: int, shard: int) -> tuple[int, int]:
    """(first row, number of rows) of one shard: ceil(rows / shards) each, what is left to the last ones."""
    most = -(-rows // shards)
    first = min(shard * most, rows)
    return first, min(most, rows - first)


def _sum_gradients(group: FSDPModule, mesh: DeviceMesh) -> None:
    """Sums gradients over ranks instead of averaging: the loss already divides by the weight of the global batch.

    One rank sums nothing, and a factor would cost it a pass over all gradients.
    """
    if mesh.size() > 1:
        # In this order: a factor alone makes FSDP ask gloo for PREMUL_SUM, which it does not have.
        group.set_force_sum_reduction_for_comms(True)
        group.set_gradient_divide_factor(1.0)
