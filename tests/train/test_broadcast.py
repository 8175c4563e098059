"""What a learner sends is what it would export, on any number of ranks."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster.weights import Bucket, Manifest, open_bucket
from configs.schema.objectives import Lora
from tests.ppo.learner_side import send_untrained
from tests.train.ranks import run_ranks
from tests.train.tiny_models import save_tiny_model

VARIANTS = {
    "whole": None,
    "lora": Lora(rank=4, alpha=8),
    "dora": Lora(rank=4, alpha=8, dora=True, targets=["q_proj", "down_proj"]),
    "trained_embedding": Lora(rank=2, alpha=8, train_whole=["embed_tokens"]),
    "nf4": Lora(rank=4, alpha=8, base="nf4"),
}


@pytest.mark.parametrize("family", ["llama", "llama_untied"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_buckets_hold_what_would_be_exported(tmp_path: Path, family: str, variant: str) -> None:
    base = save_tiny_model(tmp_path / "base", family)
    output = tmp_path / "exported"
    sent: tuple[Manifest, list[Bucket]]
    [sent] = run_ranks(1, send_untrained, str(base), VARIANTS[variant], str(output))
    manifest, buckets = sent
    came: dict[str, torch.Tensor] = {}
    for bucket in buckets:
        came |= open_bucket(manifest, bucket, bucket.data)
    exported = load_file(output / "model.safetensors")
    assert came.keys() == exported.keys()
    for name, tensor in exported.items():
        assert torch.equal(came[name], tensor), name
    if variant != "whole":
        start = load_file(base / "model.safetensors")
        assert not torch.equal(came["model.layers.0.self_attn.q_proj.weight"], start["model.layers.0.self_attn.q_proj.weight"])  # fmt: skip


@pytest.mark.cluster
@pytest.mark.parametrize("variant", ["whole", "lora", "nf4"])
def test_two_ranks_send_the_bits_of_one(tmp_path: Path, variant: str) -> None:
    base = save_tiny_model(tmp_path / "base", "llama_untied")
    [one] = run_ranks(1, send_untrained, str(base), VARIANTS[variant], str(tmp_path / "one"))
    first, second = run_ranks(2, send_untrained, str(base), VARIANTS[variant], str(tmp_path / "two"))
    assert first[0] == one[0] == second[0], "every rank announces the same"
    assert [bucket.digest for bucket in first[1]] == [bucket.digest for bucket in one[1]]
    assert second[1] == [], "only the first rank sends"
