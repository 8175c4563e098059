"""A Learner's weights -> buckets for samplers, tensor by tensor, in the sampler's type.

    announce_weights -> Manifest (names, types, shapes, buckets; nothing is gathered)
    weight_buckets:  own rows, cast --gather--> rank 0: whole tensor (+ scaling x B A) --> Bucket in memory of its own

Names are those of the checkpoint, which is what vLLM loads. A head tied to the embedding is not a tensor of its own. Adapters
are added to the weights that the Learner holds, not to those on disk: what is sampled is what is trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster.weights import BUCKET_BYTES, Bucket, Manifest, WireTensor, pack_bucket, plan_buckets
from jobs.train.adapters import LORA_PART, checkpoint_name, merged
from jobs.train.export import gather_whole, is_first_rank
from jobs.train.learner import Learner
from jobs.train.merge import parts_by_weight
from jobs.train.nf4 import Nf4Linear, dequantise, nf4_layers


def announce_weights(learner: Learner, version: int, dtype: torch.dtype, most_bytes: int = BUCKET_BYTES) -> Manifest:
    """What `weight_buckets` is going to send; a function of the model alone, the same on every rank.

    Args:
        dtype: the sampler's; casting here halves what travels.
        most_bytes: of a bucket.
    """
    tensors = [WireTensor(name, dtype, source.shape) for name, source in _sources(learner).items()]
    return Manifest(version, plan_buckets(tensors, most_bytes))


def weight_buckets(learner: Learner, manifest: Manifest) -> Iterator[Bucket]:
    """The buckets of a manifest in order, on rank 0; nothing on the others, which must exhaust the iterator too.

    Collective. Every bucket is memory of its own and no later one is written into it: a reader may keep it. At most one
    bucket and one tensor are held here.
    """
    for index, places in enumerate(manifest.buckets):
        whole = dict(whole_tensors(learner, places))
        if is_first_rank():
            yield pack_bucket(manifest, index, {name: tensor for name, tensor in whole.items() if tensor is not None})


def whole_tensors(learner: Learner, places: Sequence[WireTensor]) -> Iterator[tuple[str, Tensor | None]]:
    """(name, tensor on the CPU) on rank 0, (name, None) on the others; collective, one tensor at a time."""
    sources = _sources(learner)
    for place in places:
        yield place.name, sources[place.name].gather(learner, place.dtype)


@dataclass(frozen=True)
class _Source:
    """Where one tensor of the checkpoint comes from."""

    parameter: str
    """Of the sharded model, or of a layer in 4 bits."""
    shape: tuple[int, ...]
    quantised: Nf4Linear | None
    adapter: Mapping[str, str]
    """lora_A, lora_B (and lora_magnitude_vector) -> parameter names; empty where there is none."""

    def gather(self, learner: Learner, dtype: torch.dtype) -> Tensor | None:
        """The tensor as it is sampled with, on rank 0; None elsewhere."""
        if not self.adapter:
            return self._base(learner, dtype)
        base = self._base(learner, torch.float32)
        rows = learner.sharded.rows
        parts = {part: gather_whole(learner.sharded, rows[name], torch.float32) for part, name in self.adapter.items()}
        if base is None:
            return None
        assert learner.spec.lora is not None
        return merged(
            base, {part: tensor for part, tensor in parts.items() if tensor is not None}, learner.spec.lora
        ).to(dtype)

    def _base(self, learner: Learner, dtype: torch.dtype) -> Tensor | None:
        if self.quantised is None:
            return gather_whole(learner.sharded, learner.sharded.rows[self.parameter], dtype)
        if not is_first_rank():
            return None  # codes are whole on every rank
        rows, columns = self.shape
        return dequantise(self.quantised.quantised, (rows, columns), torch.float32).to(dtype).cpu()


def _sources(learner: Learner) -> dict[str, _Source]:
    """By name in the checkpoint, in the order of the model."""
    assert learner.spec.head == "logprobs", f"a model that gives {learner.spec.head} is not sampled from"
    rows = learner.sharded.rows
    shapes = {name: own.full_shape for name, own in rows.items() if LORA_PART.match(name) is None}
    quantised = nf4_layers(learner.sharded.module)
    shapes |= {name: layer.shape for name, layer in quantised.items()}
    adapters, trained = parts_by_weight({name: name for name, own in rows.items() if own.parameter.requires_grad})
    frozen = {checkpoint_name(name): name for name in shapes}
    return {  # of a module trained whole PEFT keeps the frozen copy too
        weight: _Source(name, shapes[name], quantised.get(name), adapters.get(weight, {}))
        for weight, name in (frozen | trained).items()
    }
