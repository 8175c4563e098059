import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cluster.weights import (
    Bucket,
    Manifest,
    Receipt,
    WeightSyncFailed,
    WireTensor,
    check_manifest,
    open_bucket,
    pack_bucket,
    plan_buckets,
)

TYPES = (torch.float32, torch.bfloat16)


def wire(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> WireTensor:
    return WireTensor(name, dtype, shape)


MODEL = [
    wire("model.embed_tokens.weight", 10, 4),  # 160 bytes
    wire("model.layers.0.q.weight", 4, 4),  # 64
    wire("model.layers.0.o.weight", 4, 4),  # 64
    wire("model.layers.1.q.weight", 4, 4),
    wire("model.layers.1.o.weight", 4, 4),
    wire("model.norm.weight", 4),  # 16
]


def names(buckets: tuple[tuple[WireTensor, ...], ...]) -> list[list[str]]:
    return [[tensor.name for tensor in bucket] for bucket in buckets]


def values(manifest: Manifest, index: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        place.name: torch.randn(place.shape, generator=generator).to(place.dtype) for place in manifest.buckets[index]
    }


def test_buckets_are_cut_between_layers() -> None:
    layer_0 = ["model.layers.0.q.weight", "model.layers.0.o.weight"]
    layer_1 = ["model.layers.1.q.weight", "model.layers.1.o.weight"]
    assert names(plan_buckets(MODEL, 300)) == [
        ["model.embed_tokens.weight", *layer_0],  # 160 + 128; with the next layer it would be 416
        [*layer_1, "model.norm.weight"],
    ]
    assert names(plan_buckets(MODEL, 1)) == [
        ["model.embed_tokens.weight"], layer_0, layer_1, ["model.norm.weight"],
    ]  # fmt: skip
    assert len(plan_buckets(MODEL)) == 1


def test_tensors_of_a_layer_come_together_wherever_they_stand() -> None:
    apart = [MODEL[1], MODEL[3], MODEL[2], MODEL[4]]
    assert names(plan_buckets(apart, 128)) == [
        ["model.layers.0.q.weight", "model.layers.0.o.weight"],
        ["model.layers.1.q.weight", "model.layers.1.o.weight"],
    ]


@given(
    st.lists(st.tuples(st.sampled_from(TYPES), st.lists(st.integers(1, 5), min_size=1, max_size=3)), min_size=1, max_size=6),
    st.integers(1, 400),
)  # fmt: skip
def test_what_is_packed_comes_out_again(described: list, most_bytes: int) -> None:
    tensors = [WireTensor(f"layers.{index // 2}.{index}", dtype, tuple(shape)) for index, (dtype, shape) in enumerate(described)]  # fmt: skip
    manifest = Manifest(3, plan_buckets(tensors, most_bytes))
    came = {}
    for index in range(len(manifest.buckets)):
        sent = values(manifest, index, seed=index)
        bucket = pack_bucket(manifest, index, sent)
        opened = open_bucket(manifest, bucket, bucket.data)
        assert list(opened) == [place.name for place in manifest.buckets[index]]
        for name, tensor in opened.items():
            assert tensor.dtype == sent[name].dtype and torch.equal(tensor, sent[name])
        came |= opened
    assert came.keys() == {tensor.name for tensor in tensors}
    assert manifest.nbytes == sum(math.prod(shape) * dtype.itemsize for dtype, shape in described)


def test_a_bucket_keeps_its_bytes_when_the_source_changes() -> None:
    manifest = Manifest(1, plan_buckets(MODEL))
    source = values(manifest, 0)
    bucket = pack_bucket(manifest, 0, source)
    before = bucket.data.copy()
    for tensor in source.values():
        tensor.zero_()
    assert np.array_equal(bucket.data, before)


@pytest.mark.parametrize("byte", [0, 100, -1])
def test_any_flipped_bit_is_seen(byte: int) -> None:
    manifest = Manifest(1, plan_buckets(MODEL))
    bucket = pack_bucket(manifest, 0, values(manifest, 0))
    bucket.data[byte] ^= 0x10
    with pytest.raises(WeightSyncFailed, match="bytes changed on the way"):
        open_bucket(manifest, bucket, bucket.data)


def test_the_hash_binds_a_bucket_to_its_place_and_version() -> None:
    one, two = Manifest(1, plan_buckets(MODEL, 1)), Manifest(2, plan_buckets(MODEL, 1))
    sent = pack_bucket(one, 1, values(one, 1))
    as_the_next_layer = Bucket(1, 2, sent.digest, sent.data)
    with pytest.raises(WeightSyncFailed, match="bytes changed"):
        open_bucket(one, as_the_next_layer, sent.data)
    with pytest.raises(WeightSyncFailed, match="bytes changed"):
        open_bucket(two, Bucket(2, 1, sent.digest, sent.data), sent.data)
    with pytest.raises(WeightSyncFailed, match="is of version 1, version 2 was announced"):
        open_bucket(two, sent, sent.data)


def test_objects_that_nobody_may_write_to_are_read_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    manifest = Manifest(1, plan_buckets(MODEL))
    sent = values(manifest, 0)
    bucket = pack_bucket(manifest, 0, sent)
    bucket.data.flags.writeable = False
    assert torch.equal(open_bucket(manifest, bucket, bucket.data)["model.norm.weight"], sent["model.norm.weight"])
    assert not recwarn.list


EXPECTED = {tensor.name: tensor.shape for tensor in MODEL}


def test_a_manifest_that_fits_passes() -> None:
    check_manifest(Manifest(5, plan_buckets(MODEL, 200)), 4, EXPECTED, torch.float32)


@pytest.mark.parametrize(
    ("tensors", "version", "says"),
    [
        (MODEL, 4, "offered to a sampler that has 4: stale or repeated"),
        (MODEL, 3, "stale or repeated"),
        (MODEL[1:], 5, "missing: model.embed_tokens.weight"),
        ([*MODEL, wire("lm_head.weight", 10, 4)], 5, "not part of the sampler's model: lm_head.weight"),
        ([*MODEL, MODEL[1]], 5, "twice: model.layers.0.q.weight"),
        ([wire("model.embed_tokens.weight", 9, 4), *MODEL[1:]], 5, r"torch.float32 \[9, 4\], the sampler has .* \[10, 4\]"),
        ([wire("model.embed_tokens.weight", 10, 4, dtype=torch.bfloat16), *MODEL[1:]], 5, "is torch.bfloat16"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_is_refused(tensors: list[WireTensor], version: int, says: str) -> None:
    with pytest.raises(WeightSyncFailed, match=says):
        check_manifest(Manifest(version, plan_buckets(tensors, 200)), 4, EXPECTED, torch.float32)


def test_a_receipt_wants_every_bucket_once_and_the_senders_list() -> None:
    manifest = Manifest(1, plan_buckets(MODEL, 1))
    buckets = [pack_bucket(manifest, index, values(manifest, index)) for index in range(4)]
    digests = [bucket.digest for bucket in buckets]
    receipt = Receipt(manifest)
    for bucket in reversed(buckets[1:]):
        receipt.take(bucket)
    with pytest.raises(WeightSyncFailed, match="never came: model.embed_tokens.weight"):
        receipt.close(digests)
    with pytest.raises(WeightSyncFailed, match="came twice"):
        receipt.take(buckets[2])
    with pytest.raises(WeightSyncFailed, match="bucket 4 was not announced; there are 4"):
        receipt.take(Bucket(1, 4, "", None))
    receipt.take(buckets[0])
    receipt.close(digests)
    with pytest.raises(WeightSyncFailed, match="lists other buckets"):
        receipt.close([*digests[:3], "0"])


def test_tensors_of_other_engines_are_counted_by_name() -> None:
    receipt = Receipt(Manifest(1, plan_buckets(MODEL, 1)))
    receipt.take_tensors(MODEL[:3])
    with pytest.raises(WeightSyncFailed, match="came twice"):
        receipt.take_tensors(MODEL[2:3])
    with pytest.raises(WeightSyncFailed, match="was not announced"):
        receipt.take_tensors([wire("model.layers.1.q.weight", 4, 5)])
    with pytest.raises(WeightSyncFailed, match="never came: model.layers.1.q.weight"):
        receipt.close(())
    receipt.take_tensors(MODEL[3:])
    receipt.close(())
