"""What a learner sends to samplers, made by ranks in processes of their own."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from cluster.storage import open_store
from cluster.weights import Bucket, Manifest
from configs.schema.objectives import Lora
from configs.schema.training import Optimizer
from jobs.ppo.probe import LEAST_TOKENS, Probe
from jobs.records import PackedRow
from jobs.train.batch import empty_batch, pack_rows
from jobs.train.broadcast import announce_weights, weight_buckets
from jobs.train.fsdp import Precision, build_mesh
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.objectives.lm import next_token_loss

VOCABULARY = 310
"""Of the tiny Llama: its few sentences give no more tokens."""
SEQUENCE, SEQUENCES = 65, 33
assert (SEQUENCE - 1) * SEQUENCES >= LEAST_TOKENS
SMALL_BUCKETS = 1 << 18
"""256 KiB: the tiny model is sent in several."""


@dataclass(frozen=True)
class Sent:
    """One version, as the learner sends it."""

    manifest: Manifest
    buckets: list[Bucket]
    probe: Probe
    """Its old log-probabilities are those of the version before."""
    digests: list[str]

    def without_step(self) -> "Sent":
        """As if the learner had not moved: then the position of the sampler says nothing."""
        return replace(self, probe=replace(self.probe, old_logprobs_N=self.probe.new_logprobs_N))


def probe_sequences(vocabulary: int) -> tuple[tuple[int, ...], ...]:
    ids_NT = torch.randint(vocabulary, (SEQUENCES, SEQUENCE), generator=torch.Generator().manual_seed(7))
    return tuple(tuple(row) for row in ids_NT.tolist())


def learner_logprobs(learner: Learner, sequences: tuple[tuple[int, ...], ...]) -> Tensor:
    rows = [PackedRow(list(ids), [0.0] + [1.0] * (len(ids) - 1), [len(ids)], [0]) for ids in sequences]
    return learner.forward(pack_rows(rows)).clone()


def train(
    directory: str,
    versions: int,
    output: str | None = None,
    lora: Lora | None = None,
    rate: float = 1e-3,
    precision: Precision = "fp32",
    dtype: torch.dtype = torch.float32,
) -> list[Sent]:
    """Versions 1, 2, ... of a policy, one step each, in `dtype`; on rank 0. The last one is exported to `output`."""
    mesh = build_mesh(torch.distributed.get_world_size())
    spec = LearnerSpec(open_store(directory), precision, Optimizer(learning_rate=rate), seed=3, lora=lora)
    learner = Learner(spec, mesh)
    learner.load()
    sequences = probe_sequences(learner.config.vocab_size)
    batch = pack_rows([PackedRow(list(sequences[0]), [0.0] + [1.0] * (SEQUENCE - 1), [SEQUENCE], [0])])
    mine = batch if torch.distributed.get_rank() == 0 else empty_batch()
    old = learner_logprobs(learner, sequences)
    sent: list[Sent] = []
    for version in range(1, versions + 1):
        sums = learner.forward_backward([mine], partial(next_token_loss, denominator=float(SEQUENCE - 1)))
        learner.step(rate, sums)
        manifest = announce_weights(learner, version, dtype, SMALL_BUCKETS)
        buckets = list(weight_buckets(learner, manifest))
        new = learner_logprobs(learner, sequences)
        sent.append(Sent(manifest, buckets, Probe(sequences, new, old), [bucket.digest for bucket in buckets]))
        old = new
    if output is not None:
        learner.export(open_store(output))
    return sent


def send_untrained(directory: str, variants: dict[str, Lora | None]) -> dict[str, tuple[Manifest, list[Bucket]]]:
    """Version 1 of each variant without a step, adapters filled so that they change the weights; exported below `directory`.

    The base model is `directory`/base.
    """
    mesh = build_mesh(torch.distributed.get_world_size())
    sent: dict[str, tuple[Manifest, list[Bucket]]] = {}
    for variant, lora in variants.items():
        spec = LearnerSpec(open_store(f"{directory}/base"), "fp32", Optimizer(), seed=3, lora=lora)
        learner = Learner(spec, mesh)
        learner.load()
        for name, rows in learner.sharded.rows.items():
            if ".lora_B." in name:
                whole = 0.3 * torch.randn(rows.full_shape, generator=torch.Generator().manual_seed(len(name)))
                rows.values.copy_(whole[rows.first_row : rows.first_row + rows.rows])
        learner.sharded.rows_changed()
        manifest = announce_weights(learner, 1, torch.float32, SMALL_BUCKETS)
        sent[variant] = manifest, list(weight_buckets(learner, manifest))
        learner.export(open_store(f"{directory}/{variant}"))
    return sent
