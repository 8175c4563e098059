"""The tiny model that other tests stand on."""

import hashlib
from pathlib import Path

import pytest

from tests.world.tiny_model import END_OF_TEXT, write_tiny_model


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def test_the_same_arguments_give_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    again, other = write_tiny_model(tmp_path / "again"), write_tiny_model(tmp_path / "other", seed=1)
    assert _digests(again) == _digests(tiny_model)
    changed = {name for name, digest in _digests(other).items() if digest != _digests(tiny_model)[name]}
    assert changed == {"model.safetensors"}


@pytest.mark.parametrize("text", ["The heart pumps 240 ml.", "Größe: 5 µm\n\n  中-Blocker 好", ""])
def test_the_tokenizer_keeps_every_text(tiny_model: Path, text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == 512 and tokenizer.eos_token == END_OF_TEXT and tokenizer.eos_token_id == 0
    assert tokenizer.chat_template is None
    assert len(ids) < max(1, len(text.encode())), "no merge was learnt" if text else ""


def test_the_model_is_small_and_not_uniform(tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert sum(parameter.numel() for parameter in model.parameters()) < 200_000
    logits_TV = model(torch.arange(1, 33)[None]).logits[0]
    assert 0.3 < logits_TV.std().item() < 1.5
