"""A base in 4 bits: its codes against bitsandbytes, training on it against PEFT on the dequantised weights."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM

from cluster.storage import Store, open_store
from configs.schema.objectives import Lora
from configs.schema.training import Optimizer
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.merge import export_merged, read_adapters
from jobs.train.nf4 import Nf4Linear, dequantise, nf4_layers, quantise, rounded
from tests.train.ranks import run_ranks
from tests.train.test_adapters import logprobs, trained
from tests.train.tiny_models import save_tiny_model

LORA = Lora(rank=4, alpha=8, base="nf4")

BITSANDBYTES = {
    (128, 96): ("a05ce66cb8bf72ee", "f8bcb40711af7add"),
    (300, 320): ("ea9daae44e552dab", "5b92d5ba459cbe8c"),
    (33, 7): ("63f58d4a54f3e8d8", "038a74a5968628fe"),
    (512, 2048): ("4b51f6ebc2f9a2f0", "cc3f801e0a91a754"),
}
"""sha256 of (codes and codes of scales, dequantised weight) by bitsandbytes 0.50.2, backends/default/ops.py: quantize_4bit of
blocks of 64, quantize_blockwise of the scales less their mean in blocks of 256, and back."""


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


@pytest.mark.parametrize("shape", BITSANDBYTES)
def test_the_bits_are_those_of_bitsandbytes(shape: tuple[int, int]) -> None:
    drawn = np.random.Generator(np.random.Philox(4)).standard_normal(shape, dtype=np.float32) * np.float32(0.05)
    weight = torch.from_numpy(drawn)
    quantised = quantise(weight)
    values = dequantise(quantised, shape, torch.float32)
    assert (digest(quantised.codes, quantised.scale_codes), digest(values)) == BITSANDBYTES[shape]
    assert float((values - weight).abs().mean() / weight.abs().mean()) < 0.1
    stored = sum(tensor.numel() * tensor.element_size() for tensor in quantised)
    assert stored <= 0.60 * weight.numel() or weight.numel() < 1000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base") / "model", "qwen2")  # with biases


@pytest.fixture(scope="module")
def dequantised(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as transformers would load it from 4 bits."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".layers." in name and parameter.dim() == 2:
                parameter.copy_(rounded(parameter))
    path = tmp_path_factory.mktemp("dequantised") / "model"
    model.save_pretrained(path)
    return path


def test_training_is_lora_on_the_dequantised_weights(
    directory: Path, dequantised: Path, one_rank: DeviceMesh, tmp_path: Path
) -> None:
    ours = trained(directory, LORA, tmp_path / "three", steps=3)
    trained(directory, LORA, tmp_path / "two", steps=2)
    base = AutoModelForCausalLM.from_pretrained(dequantised)
    torch.testing.assert_close(ours["start"], logprobs(base), rtol=0, atol=1e-5)
    assert float(ours["end"].mean()) > float(ours["start"].mean()) + 0.05  # the loss falls
    model = PeftModel.from_pretrained(base, str(tmp_path / "two/adapter"), is_trainable=True)
    (-logprobs(model).sum() / 29).backward()
    theirs = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    names = [name.removeprefix("gradient/") for name in ours if name.startswith("gradient/")]
    assert len(names) == len(theirs) == 2 * 7 * 2
    for name in names:
        torch.testing.assert_close(ours[f"gradient/{name}"], theirs[f"base_model.model.{name}"], rtol=0, atol=1e-5)


def test_merged_it_is_the_dequantised_model_with_its_adapters(
    directory: Path, one_rank: DeviceMesh, tmp_path: Path
) -> None:
    result = trained(directory, LORA, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logprobs(merged), result["end"], rtol=0, atol=1e-5)
    tensors, lora = read_adapters(open_store(str(tmp_path / "adapter")))
    assert lora.base == "nf4"
    export_merged(tensors, lora, open_store(str(directory)), open_store(str(tmp_path / "later")))
    first, second = ((tmp_path / place / "model.safetensors").read_bytes() for place in ("model", "later"))
    assert first == second


def test_every_matrix_of_the_layers_is_in_4_bits(directory: Path, one_rank: DeviceMesh) -> None:
    spec = LearnerSpec(Store(str(directory)), "bf16", Optimizer(), lora=LORA.model_copy(update={"targets": ["q_proj"]}))
    learner = Learner(spec, one_rank)
    learner.load()
    assert len(nf4_layers(learner.sharded.module)) == 2 * 7
    frozen = [
        name
        for name, parameter in learner.sharded.module.named_parameters()
        if ".layers." in name and parameter.dim() == 2 and not parameter.requires_grad
    ]
    assert not frozen
    layers = [part for part in learner.sharded.module.modules() if isinstance(part, Nf4Linear)]
    stored = sum(buffer.numel() * buffer.element_size() for part in layers for buffer in part.buffers())
    assert stored <= 0.60 * sum(part.shape[0] * part.shape[1] for part in layers)


@pytest.mark.cluster
def test_ranks_change_nothing(directory: Path, one_rank: DeviceMesh, tmp_path: Path) -> None:
    whole = trained(directory, LORA, tmp_path / "one", "fp64")
    for part in run_ranks(2, trained, directory, LORA, tmp_path / "two", "fp64"):
        for key, value in whole.items():
            torch.testing.assert_close(part[key], value, rtol=0, atol=1e-9)


def test_dora_is_refused() -> None:
    with pytest.raises(ValidationError, match="norm of the weights"):
        Lora(dora=True, base="nf4")
