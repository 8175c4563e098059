"""Bytes that one rank of a role holds: the one arithmetic behind `plan` for laptops and for GPUs.

    Held (a model, and what of it is trained) x ranks --learner_memory, scorer_memory, engine_memory--> RankMemory

It follows what jobs/train does (fsdp.py, one_rank.py, optimizer.py, head.py) and is held to it by tests/estimate/test_memory.py,
which measures a Learner. Peaks of the allocator and of kernels are not in it; `Assumptions.memory_share` leaves room for them.
"""

from dataclasses import dataclass, fields
from typing import Literal

from jobs.estimate.shape import ModelShape

Precision = Literal["bf16", "fp32"]
COMPUTE_BYTES: dict[str, int] = {"bf16": 2, "fp32": 4}
"""Of a number in forward and backward passes, and of a frozen one."""
MASTER_BYTES, GRADIENT_BYTES = 4, 4
"""Of a trained number: both are fp32 whatever the model computes in."""
MOMENT_BYTES = {"fp32": 8.0, "8bit": 2.1}
"""Of both of AdamW's moments of a trained number; in 8 bits with the scales of blocks of 192 to 256 numbers."""
NF4_BYTES = 0.516
"""Of a number in 4 bits with its share of the scales (jobs/train/nf4.py)."""
KEEP_GATHERED_BYTES = 4 << 30
"""As in jobs/train/fsdp.py: up to here a model stays gathered for a whole step. A test holds these three equal to the engine's,
which would take seconds to import."""
HEAD_ROWS, KEPT_LOGITS_BYTES = 512, 1 << 29
"""As in jobs/train/head.py: rows of logits at a time, and how many bytes of them are kept for the backward pass."""

SAVED_BYTES = {"bf16": (16, 8, 10), "fp32": (24, 16, 20)}
"""A layer's activations that autograd keeps, in bytes a token: times hidden size, times the MLP's, times the width of the
queries. Measured with saved-tensor hooks on Llama layers, each size varied alone; test_memory.py measures again. (Korthikanti et
al. 2022, arXiv 2205.05198, count 34 x hidden for a GELU MLP of 4 x hidden whose norms are not taken in fp32.)"""


@dataclass(frozen=True)
class Held:
    """One model as a role holds it.

    Example:
        Held(shape, "bf16", "logprobs", trained=shape.parameters), a frozen reward model: Held(shape, "bf16", "scores")
    """

    shape: ModelShape
    precision: Precision
    head: Literal["logprobs", "scores", "values"]
    trained: int = 0
    """Numbers with gradient and moments: all of them, those of adapters beside frozen ones, or none."""
    moments: Literal["fp32", "8bit"] = "fp32"
    base: Literal["as_stored", "nf4"] = "as_stored"
    """nf4: the layers' matrices, frozen, in 4 bits."""

    @property
    def root_parameters(self) -> int:
        """What scores or gives values has one row in the place of a head."""
        shape = self.shape
        if self.head == "logprobs":
            return shape.root_parameters
        return shape.root_parameters + shape.hidden - (0 if shape.tied else shape.head_parameters)

    @property
    def parameters(self) -> int:
        return self.shape.matrix_parameters + self.root_parameters

    @property
    def frozen(self) -> int:
        """Adapters stand beside the whole model."""
        return 0 if self.trained >= self.parameters else self.parameters

    @property
    def in_4_bits(self) -> int:
        """Numbers of the layers, where their matrices are; norms do not count much."""
        return self.shape.matrix_parameters if self.base == "nf4" else 0

    @property
    def gathered_bytes(self) -> int:
        """Of the whole model in the compute type, as FSDP gathers it; codes are on every rank already."""
        return (self.frozen + self.trained - self.in_4_bits) * COMPUTE_BYTES[self.precision]

    @property
    def stays_gathered(self) -> bool:
        return self.gathered_bytes <= KEEP_GATHERED_BYTES


@dataclass(frozen=True)
class RankMemory:
    """Bytes on one rank at its fullest.

    Example:
        RankMemory(weights=8.0e8, masters=3.4e9, gradients=3.4e9, moments=6.7e9, activations=1.1e9, logits=8.0e8)
    """

    weights: float = 0.0
    """In the compute type: own shard, and what is gathered at a time."""
    masters: float = 0.0
    gradients: float = 0.0
    moments: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    """Chunks of logits and what their gradient needs."""
    kv_cache: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def learner_memory(
    held: Held, ranks: int, micro_batch_tokens: int, checkpointing: bool, learnt_tokens: int | None = None
) -> RankMemory:
    """Of a Learner with optimizer, in a step of several micro-batches.

    Args:
        ranks: that share one copy of the model.
        learnt_tokens: of a micro-batch, those with weight; default: all.
    """
    learnt = micro_batch_tokens if learnt_tokens is None else learnt_tokens
    trained = held.trained / ranks
    # One rank in fp32 trains the very weights it computes with.
    masters = 0.0 if ranks == 1 and held.precision == "fp32" else MASTER_BYTES * trained
    return RankMemory(
        _weights(held, ranks), masters, _gradients(held, ranks), MOMENT_BYTES[held.moments] * trained,
        _activations(held, micro_batch_tokens, checkpointing), _logits(held, learnt, learns=True),
    )  # fmt: skip


def scorer_memory(held: Held, ranks: int, micro_batch_tokens: int, scored_tokens: int | None = None) -> RankMemory:
    """Of a frozen Learner; of activations it holds those of the layer that is computed."""
    scored = micro_batch_tokens if scored_tokens is None else scored_tokens
    return RankMemory(
        weights=_weights(held, ranks),
        activations=micro_batch_tokens * saved_bytes(held.shape, held.precision),
        logits=_logits(held, scored, learns=False),
    )


def engine_memory(shape: ModelShape, precision: Precision, tensor_parallel: int, kv_cache: float) -> RankMemory:
    """Of one of the workers of a vLLM engine, which has 1 / tensor_parallel of every matrix.

    Args:
        kv_cache: bytes on this worker.
    """
    return RankMemory(weights=shape.parameters * COMPUTE_BYTES[precision] / tensor_parallel, kv_cache=kv_cache)


def kv_bytes_per_token(shape: ModelShape, precision: Precision, tensor_parallel: int = 1) -> float:
    """On one worker of an engine; a head of keys is never cut, so with more workers than heads some have the same one."""
    return shape.kv_numbers_per_token * COMPUTE_BYTES[precision] / min(tensor_parallel, shape.kv_heads)


def saved_bytes(shape: ModelShape, precision: Precision) -> float:
    """Of one token in one layer, without checkpointing."""
    per_hidden, per_intermediate, per_query = SAVED_BYTES[precision]
    return per_hidden * shape.hidden + per_intermediate * shape.intermediate + per_query * shape.query_width


def _weights(held: Held, ranks: int) -> float:
    codes = held.in_4_bits * NF4_BYTES  # not cut (jobs/train/nf4.py)
    if ranks == 1:
        return held.gathered_bytes + codes
    compute = COMPUTE_BYTES[held.precision]
    shard = (held.frozen - held.in_4_bits) * compute / ranks if held.frozen else 0.0
    if held.stays_gathered:
        return shard + held.gathered_bytes + codes
    # FSDP gathers the next layer while one is computed; the root group stays for the whole pass.
    layers = 0 if held.in_4_bits else 2 * held.shape.layer_parameters
    return shard + (layers + held.root_parameters) * compute + codes


def _gradients(held: Held, ranks: int) -> float:
    if ranks == 1:
        return GRADIENT_BYTES * held.trained
    shard = GRADIENT_BYTES * held.trained / ranks
    if held.stays_gathered:  # summed over ranks after the last micro-batch only: until then they are whole
        return shard + GRADIENT_BYTES * held.trained
    share = held.trained / (held.frozen or held.parameters)
    largest = max(held.shape.layer_parameters, held.root_parameters) * share
    return shard + largest * (GRADIENT_BYTES + COMPUTE_BYTES[held.precision])


def _activations(held: Held, tokens: int, checkpointing: bool) -> float:
    layers, one_layer = held.shape.layers, saved_bytes(held.shape, held.precision)
    if not checkpointing:
        return tokens * layers * one_layer
    # The input of every layer, and the one layer that is computed again.
    return tokens * (layers * COMPUTE_BYTES[held.precision] * held.shape.hidden + one_layer)


def _logits(held: Held, tokens: int, learns: bool) -> float:
    if held.head != "logprobs":
        return 0.0
    compute, vocabulary = COMPUTE_BYTES[held.precision], held.shape.vocabulary
    rows = min(tokens, HEAD_ROWS)
    chunk = rows * vocabulary * (4 + compute)  # as they come, and in fp32
    if not learns:
        return chunk
    kept = tokens * vocabulary * compute
    chunk += rows * vocabulary * compute  # their gradient, in the type of the weights
    # Of the head's gradient: one product, and beyond one chunk an fp32 sum and an fp32 copy of the product beside it.
    matrices = compute if tokens <= HEAD_ROWS else compute + 2 * 4
    return chunk + (kept if kept <= KEPT_LOGITS_BYTES else 0) + matrices * held.shape.head_parameters
