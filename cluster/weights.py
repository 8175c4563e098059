"""Weights on their way from a learner to its samplers: what is announced, what is sent, how a receiver knows that it has it.

    learner: plan_buckets -> Manifest ----------------------------------------------> sampler: check_manifest
             pack_bucket  -> Bucket (one flat array, one hash) --ObjectRef or array-> open_bucket -> name -> tensor
             digests of all buckets ------------------------------------------------> Receipt.close

Both sides share this file and nothing else: jobs/train sends and knows no vLLM, jobs/ppo receives and knows no Learner.
A bucket is flat because Ray hands an array to a reader of the same host without a copy, a dict of tensors it pickles.
"""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from configs.errors import RunFailed

BUCKET_BYTES = 256 << 20
"""256 MiB: some tens of buckets for 7B parameters in bf16, each far above the cost of a message (about 1 ms in Ray) and far
below the object store of any node."""
FETCH_TIMEOUT_S = 300.0
"""For one bucket: 256 MiB take 2 s at 1 Gbit/s. A network that needs more than 100 times that is down."""
ALIGNMENT = 64
"""Bytes; a cache line, and a multiple of every type's size, so that tensors are views into the bucket."""
LAYER = re.compile(r"^(.*?\.\d+)\.")
"""The outermost numbered part of a name: the decoder layer. vLLM turns a layer into its own format once it has all of it."""


class WeightSyncFailed(RunFailed, RuntimeError):
    """Weights did not arrive as they were sent; the sampler keeps no half of them."""


class WireTensor(NamedTuple):
    """One tensor of a broadcast: its name in the checkpoint, and how its bytes are read."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Manifest:
    """What a sender is going to send.

    Example:
        Manifest(version=7, buckets=((WireTensor("model.embed_tokens.weight", torch.bfloat16, (49152, 576)),), ...))
    """

    version: int
    """Of the policy; every rollout that is sampled with these weights carries it."""
    buckets: tuple[tuple[WireTensor, ...], ...]
    """In the order in which they are sent."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for bucket in self.buckets for tensor in bucket)


@dataclass(frozen=True)
class Bucket:
    """The bytes of one bucket of a manifest.

    Example:
        Bucket(version=7, index=0, digest="9c31d0...", data=array([...], dtype=uint8))
    """

    version: int
    index: int
    digest: str
    """`digest` below, taken by the sender before the bytes travelled."""
    data: Any
    """uint8 (bytes,), or a ray.ObjectRef of that. Nobody writes to it after it was packed."""


def plan_buckets(tensors: Sequence[WireTensor], most_bytes: int = BUCKET_BYTES) -> tuple[tuple[WireTensor, ...], ...]:
    """Cuts tensors into buckets of at most `most_bytes`, at the boundaries of decoder layers; a larger layer is a bucket."""
    layers: dict[str, list[WireTensor]] = {}
    for tensor in tensors:
        found = LAYER.match(tensor.name)
        layers.setdefault(found[1] if found else tensor.name, []).append(tensor)
    buckets: list[list[WireTensor]] = []
    size = 0
    for parts in layers.values():
        bytes_ = sum(tensor.nbytes for tensor in parts)
        if not buckets or size + bytes_ > most_bytes:
            buckets.append([])
            size = 0
        buckets[-1] += parts
        size += bytes_
    return tuple(tuple(bucket) for bucket in buckets)


def pack_bucket(manifest: Manifest, index: int, tensors: Mapping[str, Tensor]) -> Bucket:
    """One bucket in memory of its own.

    Args:
        tensors: on the CPU, in the types and shapes of the manifest's bucket `index`, which it names.
    """
    places = manifest.buckets[index]
    assert tensors.keys() == {place.name for place in places}, sorted(tensors)
    offsets, size = _offsets(places)
    data = np.zeros(size, dtype=np.uint8)
    for place, offset in zip(places, offsets, strict=True):
        tensor = tensors[place.name]
        assert (tensor.dtype, tuple(tensor.shape)) == (place.dtype, place.shape), (place, tensor.dtype, tensor.shape)
        flat = torch.from_numpy(data[offset : offset + place.nbytes])
        flat.view(place.dtype).copy_(tensor.reshape(-1))
    return Bucket(manifest.version, index, digest(manifest, index, data), data)


def open_bucket(manifest: Manifest, bucket: Bucket, data: np.ndarray) -> dict[str, Tensor]:
    """The tensors of a bucket, as views of `data`, after every check of it.

    Args:
        data: what `bucket.data` is, or refers to.

    Raises:
        WeightSyncFailed: it is of another version, there is no such bucket, or its bytes are not those that were sent.
    """
    if bucket.version != manifest.version:
        raise WeightSyncFailed(
            f"bucket {bucket.index} is of version {bucket.version}, version {manifest.version} was announced"
        )
    if not 0 <= bucket.index < len(manifest.buckets):
        raise WeightSyncFailed(f"bucket {bucket.index} was not announced; there are {len(manifest.buckets)}")
    places = manifest.buckets[bucket.index]
    offsets, size = _offsets(places)
    if data.dtype != np.uint8 or data.shape != (size,):
        raise WeightSyncFailed(
            f"bucket {bucket.index} ({places[0].name} ...) has {data.nbytes} bytes, {size} were announced"
        )
    if digest(manifest, bucket.index, data) != bucket.digest:
        raise WeightSyncFailed(
            f"bucket {bucket.index} ({places[0].name} ... {places[-1].name}) is not what was sent: its bytes changed on the way"
        )
    flat = _as_tensor(data)
    return {
        place.name: flat[offset : offset + place.nbytes].view(place.dtype).view(place.shape)
        for place, offset in zip(places, offsets, strict=True)
    }


def digest(manifest: Manifest, index: int, data: np.ndarray) -> str:
    """XXH3-128 over version, index, names, types, shapes and bytes.

    It finds accidents (a bit, a buffer written too early, yesterday's bucket), not forgers: who can write to the object store
    of a cluster can change the code as well. 16 GiB/s on one core here, sha256 does 1.4.
    """
    state = xxhash.xxh3_128(repr((manifest.version, index, manifest.buckets[index])).encode())
    state.update(data.data)
    return state.hexdigest()


def check_manifest(
    manifest: Manifest, current_version: int, expected: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> None:
    """Before anything is received.

    Args:
        current_version: of the weights that the sampler has.
        expected: names and shapes of everything that the sampler's model consists of.
        dtype: in which the sampler computes.

    Raises:
        WeightSyncFailed: the version is not newer, or names, shapes or types are not those of the sampler's model.
    """
    if manifest.version <= current_version:
        raise WeightSyncFailed(
            f"weights of version {manifest.version} were offered to a sampler that has {current_version}: stale or repeated"
        )
    announced = [tensor for bucket in manifest.buckets for tensor in bucket]
    names = Counter(tensor.name for tensor in announced)
    twice = sorted(name for name, times in names.items() if times > 1)
    problems = [f"twice: {_some(twice)}"] if twice else []
    missing, extra = sorted(expected.keys() - names.keys()), sorted(names.keys() - expected.keys())
    problems += [f"missing: {_some(missing)}"] if missing else []
    problems += [f"not part of the sampler's model: {_some(extra)}"] if extra else []
    for tensor in announced:
        if tensor.name in expected and (tensor.shape, tensor.dtype) != (expected[tensor.name], dtype):
            problems.append(
                f"{tensor.name} is {tensor.dtype} {list(tensor.shape)}, the sampler has {dtype} {list(expected[tensor.name])}"
            )
    if problems:
        raise WeightSyncFailed(f"weights of version {manifest.version}: {'; '.join(problems[:4])}")


@dataclass
class Receipt:
    """What has come of a manifest."""

    manifest: Manifest
    digests: dict[int, str] = field(default_factory=dict)
    """By bucket."""
    names: set[str] = field(default_factory=set)

    def take(self, bucket: Bucket) -> None:
        """Raises WeightSyncFailed where the bucket was not announced, or was there before."""
        if not 0 <= bucket.index < len(self.manifest.buckets):
            raise WeightSyncFailed(f"bucket {bucket.index} was not announced; there are {len(self.manifest.buckets)}")
        if bucket.index in self.digests:
            raise WeightSyncFailed(f"bucket {bucket.index} of version {self.manifest.version} came twice")
        self.digests[bucket.index] = bucket.digest
        self.names |= {tensor.name for tensor in self.manifest.buckets[bucket.index]}

    def take_tensors(self, tensors: Sequence[WireTensor]) -> None:
        """What a transfer engine that does not know buckets says it brings. Raises WeightSyncFailed as `take`."""
        announced = {tensor for bucket in self.manifest.buckets for tensor in bucket}
        for tensor in tensors:
            if tensor not in announced or tensor.name in self.names:
                raise WeightSyncFailed(f"{tensor} was not announced for version {self.manifest.version}, or came twice")
            self.names.add(tensor.name)

    def close(self, sent: Sequence[str]) -> None:
        """Args:
            sent: the digests of all buckets in order, as the sender lists them when it is done; of other engines none.

        Raises:
            WeightSyncFailed: something is missing, or is not what the sender means.
        """
        missing = [
            tensor.name for bucket in self.manifest.buckets for tensor in bucket if tensor.name not in self.names
        ]
        if missing:
            raise WeightSyncFailed(f"of version {self.manifest.version} these never came: {_some(missing)}")
        if [self.digests[index] for index in sorted(self.digests)] != list(sent):
            raise WeightSyncFailed(
                f"the sender lists other buckets of version {self.manifest.version} than those that came here"
            )


def _offsets(places: Sequence[WireTensor]) -> tuple[list[int], int]:
    """(first byte of each tensor, bytes of the whole bucket)."""
    offsets: list[int] = []
    size = 0
    for place in places:
        offsets.append(size)
        size += -(-place.nbytes // ALIGNMENT) * ALIGNMENT
    return offsets, size


def _as_tensor(data: np.ndarray) -> Tensor:
    with warnings.catch_warnings():  # Ray's objects cannot be written to, torch tensors always can: nobody writes here
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(data)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
