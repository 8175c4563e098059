"""One model being trained (or only scored) over the ranks of a mesh: few verbs, no Ray, the same bits under any host.

    load -> (forward_backward -> step)* -> export
              |  micro-batches      one all-reduce: gradient norm, loss, metrics, flags, memory; clip; AdamW
              forward: log-probabilities, scores or values only

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
from configs.errors import RunFailed
from configs.schema.objectives import Lora
from configs.schema.training import Optimizer
from jobs.train.adapters import without_dropout
from jobs.train.batch import PackedBatch
from jobs.train.export import export_model, gather_on_first_rank
from jobs.train.families import brings_own_code
from jobs.train.fsdp import COMPUTE_TYPES, LocalRows, Precision, ShardedModel, device_of, shard_model
from jobs.train.initial import set_initial, set_quantised, set_trained_before, trained_before, where_from
from jobs.train.kernels import Kernels, use_kernels
from jobs.train.merge import export_merged, write_adapters, write_reward_config
from jobs.train.model import Head, build_on_meta, read_config
from jobs.train.nf4 import nf4_shapes
from jobs.train.objectives.objective import EntropyLoss, LossFunction, mean_of
from jobs.train.one_rank import WholeModel, WholeRows
from jobs.train.optimizer import AdamW
from jobs.train.own_code import check_packing
from jobs.train.reward_scale import read_scale
from jobs.train.step import StepMetrics, StepSums, added, no_sums, reduced


class NonFiniteLoss(RunFailed, ArithmeticError):
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
    cpu_offload: bool = False
    kernels: Kernels = "torch"
    compile: bool = False
    trust_remote_code: bool = False
    head: Head = "logprobs"
    """scores: a new head of one row where the model directory has none, drawn from `seed`; values: always a new one, of 0."""
    seed: int = 0
    lora: Lora | None = None
    adapter: Store | None = None
    """Finished adapters in PEFT's format that are gone on with; None: new ones."""


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
            UnsupportedModel, WeightsError, KernelsMissing: with what is wrong and how to mend it.
        """
        self.spec = spec
        self.device = device_of(mesh)
        self.config = read_config(spec.model, spec.trust_remote_code)
        master_type = torch.promote_types(COMPUTE_TYPES[spec.precision], torch.float32)
        module = build_on_meta(self.config, spec.trust_remote_code, spec.head, spec.lora, master_type)
        shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        self.stored = where_from(spec.model, shapes | nf4_shapes(module), spec.head)
        judges = spec.head == "scores" and spec.optimizer is None
        self.scale = read_scale(spec.model) if judges else None
        trained = {name: shapes[name] for name, parameter in module.named_parameters() if parameter.requires_grad}
        self.continued = trained_before(spec.adapter, spec.lora, trained) if spec.adapter and spec.lora else {}
        if spec.optimizer is None:
            module.requires_grad_(False)
        for parameter in module.parameters():  # not the buffers: rotary angles need fp32
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(COMPUTE_TYPES[spec.precision])
        use_kernels(module, self.device, spec.kernels, spec.compile)
        if spec.activation_checkpointing:
            module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.sharded: ShardedModel | WholeModel = shard_model(module.train(), mesh, spec.precision, spec.cpu_offload)
        self._moments: AdamW | None = None

    @property
    def optimizer(self) -> AdamW | None:
        """None for a frozen scorer. Made at its first use: loading then never holds more than the weights."""
        if self._moments is None and self.spec.optimizer is not None:
            shapes = {name: rows.full_shape for name, rows in self._trained().items()}
            self._moments = AdamW(self._values(), shapes, self.spec.optimizer)
        return self._moments

    def load(self) -> None:
        """Allocates this rank's rows and reads them, and only them, from the model directory. Raises UnsupportedModel."""
        self.sharded.allocate(self.device)
        set_quantised(self.sharded.module, self.stored, self.spec.model, self.device)
        self.begin_again()
        if brings_own_code(self.config, self.spec.trust_remote_code):
            check_packing(self.forward, self.config.vocab_size, self.spec.precision)

    def begin_again(self) -> None:
        """Gives every parameter what it had after `load`; the moments stay."""
        self.sharded.rows_changed()
        set_initial(self.sharded.rows, self.stored, self.spec.model, self.spec.seed)
        if self.spec.adapter is not None:
            set_trained_before(self.sharded.rows, self.continued, self.spec.adapter)

    @torch.no_grad()
    def forward(self, batch: PackedBatch, temperature: float = 1.0) -> Tensor:
        """Without gradient: fp32 (W,) log-probabilities of the batch's weighted targets or values before them, or (S,)
        scores of its segments.

        Nothing is dropped out. A frozen scorer is on the scale of its reward.json.

        Args:
            temperature: the sampler's; it divides the logits.
        """
        self.sharded.before_forward()
        with without_dropout(self.sharded.module):
            values = self.sharded.module(batch.to(self.device), temperature).values
        return values if self.scale is None else self.scale.normalised(values)

    def forward_backward(
        self,
        micro_batches: Sequence[PackedBatch],
        loss_function: LossFunction | EntropyLoss,
        temperature: float = 1.0,
    ) -> StepSums:
        """Adds the gradient of the loss over `micro_batches`, summed over ranks after the last of them.

        Args:
            micro_batches: at least one, as many as on every other rank.
            loss_function: of this step, from an objective (jobs/train/objectives) or PPO (jobs/ppo/losses.py).
            temperature: as in `forward`.
        """
        assert micro_batches, "every rank needs a micro-batch; use empty_batch()"
        sums = no_sums(self.device)
        self.sharded.before_forward()
        for number, batch in enumerate(micro_batches, start=1):
            batch = batch.to(self.device)
            self.sharded.begin_backward_of(number, len(micro_batches))
            if isinstance(loss_function, EntropyLoss):
                outputs = self.sharded.module(batch, temperature, "learnt")
                contribution = loss_function.function(outputs.values, outputs.entropy_K, batch)
            else:
                outputs = self.sharded.module(batch, temperature)
                contribution = loss_function(outputs.values, batch)
            contribution.loss.backward()
            sums = added(sums, contribution, mean_of(outputs.entropy_K))
        return sums

    def sum_over_ranks(self, value: float) -> float:
        """The sum of a number over all ranks, in fp64."""
        return self.sums_over_ranks(torch.tensor([value], dtype=torch.float64))[0]

    def sums_over_ranks(self, values_N: Tensor) -> list[float]:
        """The sums of some numbers over all ranks, in fp64."""
        totals_N = values_N.to(self.device, torch.float64, copy=True)
        dist.all_reduce(totals_N)
        return totals_N.tolist()

    def step(self, learning_rate: float, sums: StepSums, stop: bool = False, checkpoint: bool = False) -> StepMetrics:
        """Clips the gradient, updates the weights, forgets the gradient; one all-reduce in all.

        Args:
            sums: of this rank, from `forward_backward`.
            stop, checkpoint: what this rank wants after this step; every rank learns of it in the metrics.

        Raises:
            NonFiniteLoss: on every rank, with weights and moments unchanged.
        """
        optimizer = self.optimizer
        assert optimizer is not None, "a Learner without optimizer does not step"
        gradients = {name: rows.gradient for name, rows in self._trained().items() if rows.rows}
        norms_N = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients.values()])
        squares = norms_N.double().square().sum().to(self.device)
        finite = torch.isfinite(squares) & torch.isfinite(sums.loss)
        # Replicas hold the same reduced gradient, so each contributes its part of the one norm.
        squares = squares / self.sharded.mesh["replicate"].size()
        over_ranks = reduced(sums, squares, [not finite, stop, checkpoint])
        broken_ranks, stopping, saving = over_ranks.flags
        if broken_ranks:
            self.sharded.forget_gradients()
            raise NonFiniteLoss(
                f"loss {over_ranks.loss}, squared gradient norm {over_ranks.squares}: not finite on {broken_ranks} of "
                f"{dist.get_world_size()} ranks. The weights are unchanged; lower the learning rate or look at this batch."
            )
        norm = math.sqrt(over_ranks.squares)
        if norm > optimizer.settings.clip_norm:
            for gradient in gradients.values():
                gradient.mul_(optimizer.settings.clip_norm / norm)
        optimizer.step(self._values(), gradients, learning_rate)
        self.sharded.rows_changed()
        self.sharded.forget_gradients()
        return StepMetrics(
            over_ranks.loss, norm, over_ranks.metrics, stopping > 0, saving > 0, over_ranks.peak_rss_bytes
        )

    def state(self) -> dict[str, Tensor]:
        """This rank's rows of the training state as views: param/NAME (fp32), steps_done, and AdamW.moments.

        Copy them before the next step changes them. A rank that owns no row of a tensor has an empty one.
        """
        state = {f"param/{name}": values for name, values in self._values().items()}
        if self.optimizer is not None:
            state |= self.optimizer.moments()
            first = self.sharded.mesh["shard"].get_local_rank() == 0
            state["steps_done"] = self.optimizer.steps_done if first else self.optimizer.steps_done[:0]
        return state

    def state_rows(self) -> dict[str, RowSpan]:
        """For every tensor of `state`, which rows of the whole this rank holds."""
        spans: dict[str, RowSpan] = {}
        for key, values in self.state().items():
            if key == "steps_done":
                spans[key] = RowSpan(1 - len(values), len(values), (1,))
            else:
                own = self.sharded.rows[key.partition("/")[2]]
                spans[key] = RowSpan(own.first_row, own.rows, (own.full_shape[0], *values.shape[1:]))
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
        """Writes a model directory as transformers and vLLM read it, adapters added to the weights.

        Raises StorageError or OSError where it cannot.
        """
        if self.spec.lora is None:
            export_model(self.sharded, self.stored, self.spec.model, output)
        else:
            export_merged(gather_on_first_rank(self.sharded, self._trained()), self.spec.lora, self.spec.model, output)
        if self.spec.head != "logprobs":
            write_reward_config(output)
        dist.barrier()

    def export_adapters(self, output: Store) -> None:
        """Writes what was trained beside the frozen weights, in PEFT's format."""
        assert self.spec.lora is not None, "there are no adapters"
        trained = gather_on_first_rank(self.sharded, self._trained())
        write_adapters(trained, self.spec.lora, self.spec.model, output)
        dist.barrier()

    def draw_dropout(self, seed: int, step: int) -> None:
        """Keys the adapters' dropout in training by (seed, step, rank), so that there is no generator to save."""
        if self.spec.lora is not None and self.spec.lora.dropout > 0:
            torch.manual_seed((seed * 1_000_003 + step) * 1_009 + dist.get_rank())

    def _trained(self) -> dict[str, LocalRows | WholeRows]:
        return {name: rows for name, rows in self.sharded.rows.items() if rows.parameter.requires_grad}

    def _values(self) -> dict[str, Tensor]:
        """What is trained; of a frozen scorer everything."""
        rows = self.sharded.rows if self.spec.optimizer is None else self._trained()
        return {name: own.values for name, own in rows.items()}
