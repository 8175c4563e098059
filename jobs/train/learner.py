"""One model being trained (or only scored) over the ranks of a mesh: few verbs, no Ray, the same bits under any host.

    load -> (forward_backward -> step)* -> export
              |  micro-batches      one all-reduce: gradient norm, loss, flags; clip; AdamW
              forward: log-probabilities only

Every verb is collective: all ranks call it, with the same number of micro-batches (`empty_batch` fills up).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from cluster.storage import Store
from configs.schema.training import Optimizer
from jobs.train.batch import PackedBatch
from jobs.train.export import export_model
from jobs.train.fsdp import COMPUTE_TYPES, Precision, ShardedModel, device_of, shard_model
from jobs.train.model import build_on_meta, read_config
from jobs.train.objectives.lm import next_token_loss
from jobs.train.one_rank import WholeModel
from jobs.train.optimizer import AdamW
from jobs.train.weights import check_tensors, list_tensors, read_rows

ALWAYS_IGNORABLE = (r"rotary_emb\.inv_freq$",)
"""Buffers that old checkpoints carry; they are computed from the config."""


class NonFiniteLoss(ArithmeticError):
    """Loss or gradient is NaN or infinite on some rank; raised on every rank, before the weights change."""


@dataclass(frozen=True)
class LearnerSpec:
    """What a Learner is made of.

    Example:
        LearnerSpec(model=open_store("models/smollm2"), precision="bf16", optimizer=Optimizer(learning_rate=1e-4))
    """

    model: Store
    """Directory with config.json, *.safetensors and the tokenizer."""
    precision: Precision
    optimizer: Optimizer | None
    """None: a frozen scorer, kept in the compute type, without gradients and moments."""
    activation_checkpointing: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class TokenLogprobs:
    """The result of a forward pass without gradient."""

    logprobs_W: Tensor
    """fp32, at the positions with weight > 0, in order."""


@dataclass(frozen=True)
class LossSums:
    """What this rank's micro-batches add to the loss of the global batch, before it is divided."""

    loss_sum: Tensor
    """fp64 ()"""
    weight_sum: Tensor
    """fp64 ()"""


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step, over all ranks."""

    loss: float
    """Mean over the weight of the global batch, in nats."""
    weight: float
    """Of the global batch."""
    gradient_norm: float
    """Before clipping."""
    stop: bool
    """Some rank asked to stop after this step."""


class RowSpan(NamedTuple):
    """Which rows of a tensor of the training state this rank holds."""

    first_row: int
    rows: int
    full_shape: tuple[int, ...]


class Learner:
    """A causal language model, sharded, with its optimizer.

    torch.distributed must be initialised and `fsdp.set_threads` called before.
    """

    def __init__(self, spec: LearnerSpec, mesh: DeviceMesh) -> None:
        """Checks the model and plans the shards; allocates nothing.

        Raises:
            UnsupportedModel, WeightsError: with what is wrong and how to mend it.
        """
        self.spec = spec
        self.device = device_of(mesh)
        self.config = read_config(spec.model, spec.trust_remote_code)
        self.stored = list_tensors(spec.model)
        module = build_on_meta(self.config, spec.trust_remote_code)
        wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        ignorable = ALWAYS_IGNORABLE if module.lm_head is not None else (*ALWAYS_IGNORABLE, r"^lm_head\.weight$")
        check_tensors(wanted, self.stored, ignorable, spec.model.root)
        if spec.optimizer is None:
            module.requires_grad_(False)
            for parameter in module.parameters():  # not the buffers: rotary angles need fp32
                parameter.data = parameter.data.to(COMPUTE_TYPES[spec.precision])
        if spec.activation_checkpointing:
            module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.sharded: ShardedModel | WholeModel = shard_model(module.train(), mesh, spec.precision)
        self._moments: AdamW | None = None

    @property
    def optimizer(self) -> AdamW | None:
        """None for a frozen scorer. Made at its first use: loading then never holds more than the weights."""
        if self._moments is None and self.spec.optimizer is not None:
            matrices = frozenset(name for name, rows in self.sharded.rows.items() if len(rows.full_shape) > 1)
            self._moments = AdamW(self._values(), matrices, self.spec.optimizer)
        return self._moments

    def load(self) -> None:
        """Allocates this rank's rows and reads them, and only them, from the model directory."""
        self.sharded.allocate(self.device)
        for name, rows in self.sharded.rows.items():
            read_rows(self.spec.model, self.stored[name], rows.first_row, rows.values)

    @torch.no_grad()
    def forward(self, batch: PackedBatch, temperature: float = 1.0) -> TokenLogprobs:
        """Log-probabilities of the batch's weighted targets, without gradient."""
        self.sharded.before_forward()
        return TokenLogprobs(self.sharded.module(batch.to(self.device), temperature))

    def forward_backward(self, micro_batches: Sequence[PackedBatch], denominator: float) -> LossSums:
        """Adds the gradient of the next-token loss over `micro_batches`, summed over ranks after the last of them.

        Args:
            micro_batches: at least one, as many as on every other rank.
            denominator: weight sum of the global batch, over all ranks.
        """
        assert micro_batches, "every rank needs a micro-batch; use empty_batch()"
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        weight_sum = torch.zeros_like(loss_sum)
        self.sharded.before_forward()
        for number, batch in enumerate(micro_batches, start=1):
            batch = batch.to(self.device)
            self.sharded.begin_backward_of(number, len(micro_batches))
            logprobs_W = self.sharded.module(batch, 1.0)
            objective = next_token_loss(logprobs_W, batch.weights_W, denominator)
            objective.loss.backward()
            loss_sum += objective.loss_sum
            weight_sum += objective.weight_sum
        return LossSums(loss_sum, weight_sum)

    def step(self, learning_rate: float, sums: LossSums, stop: bool = False) -> StepMetrics:
        """Clips the gradient, updates the weights, forgets the gradient; one all-reduce in all.

        Args:
            sums: of this rank, from `forward_backward`.
            stop: this rank wants to stop after this step; every rank learns of it in the metrics.

        Raises:
            NonFiniteLoss: on every rank, with weights and moments unchanged.
        """
        optimizer = self.optimizer
        assert optimizer is not None, "a Learner without optimizer does not step"
        gradients = {name: rows.gradient for name, rows in self.sharded.rows.items() if rows.rows}
        squares = torch.stack([torch.linalg.vector_norm(grad).double().square() for grad in gradients.values()]).sum()
        finite = torch.isfinite(squares) & torch.isfinite(sums.loss_sum)
        # Replicas hold the same reduced gradient, so each contributes its part of the one norm.
        squares = squares / self.sharded.mesh["replicate"].size()
        flags = torch.tensor([0.0, stop], dtype=torch.float64, device=self.device)
        flags[0] = (~finite).double()
        reduced = torch.cat([torch.stack([squares, sums.loss_sum, sums.weight_sum]), flags])
        dist.all_reduce(reduced)
        square, loss_sum, weight, broken_ranks, stopping = reduced.tolist()
        if broken_ranks:
            self.zero_gradients()
            raise NonFiniteLoss(
                f"loss sum {loss_sum}, squared gradient norm {square}: not finite on {int(broken_ranks)} of "
                f"{dist.get_world_size()} ranks. The weights are unchanged; lower the learning rate or look at this batch."
            )
        norm = math.sqrt(square)
        if norm > optimizer.settings.clip_norm:
            for gradient in gradients.values():
                gradient.mul_(optimizer.settings.clip_norm / norm)
        optimizer.step(self._values(), gradients, learning_rate)
        self.sharded.rows_changed()
        self.zero_gradients()
        return StepMetrics(loss=loss_sum / weight, weight=weight, gradient_norm=norm, stop=stopping > 0)

    def zero_gradients(self) -> None:
        """Forgets the gradient of this step."""
        self.sharded.forget_gradients()

    def state(self) -> dict[str, Tensor]:
        """This rank's rows of the training state, fp32, as views: param/NAME, exp_avg/NAME, exp_avg_sq/NAME, steps_done.

        Copy them before the next step changes them. A rank that owns no row of a tensor has an empty one.
        """
        state = {f"param/{name}": values for name, values in self._values().items()}
        if self.optimizer is not None:
            state |= {f"exp_avg/{name}": values for name, values in self.optimizer.exp_avg.items()}
            state |= {f"exp_avg_sq/{name}": values for name, values in self.optimizer.exp_avg_sq.items()}
            first = self.sharded.mesh["shard"].get_local_rank() == 0
            state["steps_done"] = self.optimizer.steps_done if first else self.optimizer.steps_done[:0]
        return state

    def state_rows(self) -> dict[str, RowSpan]:
        """For every tensor of `state`, which rows of the whole this rank holds."""
        spans: dict[str, RowSpan] = {}
        kinds = ("param",) if self.optimizer is None else ("param", "exp_avg", "exp_avg_sq")
        for kind in kinds:
            for name, rows in self.sharded.rows.items():
                spans[f"{kind}/{name}"] = RowSpan(rows.first_row, rows.rows, rows.full_shape)
        if self.optimizer is not None:
            held = len(self.state()["steps_done"])
            spans["steps_done"] = RowSpan(1 - held, held, (1,))
        return spans

    def load_state(self, read: Callable[[str, int, int], Tensor]) -> None:
        """Takes over a saved training state, of any number of ranks, after `load`.

        Args:
            read: (name of a tensor of the state, first row, rows) -> those rows. Not called for zero rows.
        """
        self.sharded.rows_changed()
        spans = self.state_rows()
        for name, values in self.state().items():
            if values.numel():
                values.copy_(read(name, spans[name].first_row, spans[name].rows))
        if self.optimizer is not None:
            self.optimizer.steps_done.copy_(read("steps_done", 0, 1))

    def export(self, output: Store) -> None:
        """Writes a model directory as transformers and vLLM read it; raises StorageError or OSError where it cannot."""
        export_model(self.sharded, self.stored, self.spec.model, output)

    def _values(self) -> dict[str, Tensor]:
        return {name: rows.values for name, rows in self.sharded.rows.items()}
