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


FAMILIES = ("llama", "llama_untied")


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, tuple[Manifest, list[Bucket]]]]]:
    """By family: the directory of base and exports, and what one rank sends of every variant."""
    by_family = {}
    for family in FAMILIES:
        directory = tmp_path_factory.mktemp(family)
        save_tiny_model(directory / "base", family)
        by_family[family] = directory, run_ranks(1, send_untrained, str(directory), VARIANTS)[0]
    return by_family


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_buckets_hold_what_would_be_exported(sent: dict, family: str, variant: str) -> None:
    directory, of_variants = sent[family]
    manifest, buckets = of_variants[variant]
    came: dict[str, torch.Tensor] = {}
    for bucket in buckets:
        came |= open_bucket(manifest, bucket, bucket.data)
    exported = load_file(directory / variant / "model.safetensors")
    assert came.keys() == exported.keys()
    for name, tensor in exported.items():
        assert torch.equal(came[name], tensor), name
    start = load_file(directory / "base" / "model.safetensors")
    adapted = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(came[adapted], start[adapted]) == (variant == "whole")


@pytest.mark.cluster
def test_two_ranks_send_the_bits_of_one(sent: dict, tmp_path: Path) -> None:
    _, one = sent["llama_untied"]
    save_tiny_model(tmp_path / "base", "llama_untied")
    first, second = run_ranks(2, send_untrained, str(tmp_path), VARIANTS)
    for variant, (manifest, buckets) in one.items():
        assert first[variant][0] == manifest == second[variant][0], "every rank announces the same"
        assert [bucket.digest for bucket in first[variant][1]] == [bucket.digest for bucket in buckets], variant
        assert second[variant][1] == [], "only the first rank sends"
