"""Tokens appended at import: whoever loads the model has them, old tokens keep their ids and their numbers."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.storage import Store
from configs.schema.run import ModelStage
from jobs.model_files import ModelError
from jobs.models import import_model, load_tokenizer, resolve_source
from jobs.stages import identity
from jobs.train import export
from tests.world.tiny_model import SENTENCES, write_tiny_model

TOKENS = ["<|table|>", "<|cell|>"]


def imported(source: Path, output: Path, **changes: object) -> Path:
    stage = ModelStage.model_validate({"stage": "model", "source": str(source), "added_tokens": TOKENS, **changes})
    import_model(stage, resolve_source(str(source)), Store(str(output)), lambda *_: None)
    return output / "model"


def logits(directory: Path, ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("files", ["one", "several"])
def test_transformers_loads_old_numbers_and_new_rows(
    tmp_path: Path, tied: bool, files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tiny_model(tmp_path / "source", tied=tied)
    if files == "several":
        AutoModelForCausalLM.from_pretrained(source).save_pretrained(source, max_shard_size="100KB")
        (source / "model.safetensors").unlink()
        monkeypatch.setattr(export.plan_files, "__defaults__", (100_000,))
    directory = imported(source, tmp_path / "output", chat_template="instruction")
    assert (directory / "model.safetensors.index.json").exists() == (files == "several")
    assert not (tmp_path / "output" / "given").exists()
    tokenizer, before = AutoTokenizer.from_pretrained(directory), AutoTokenizer.from_pretrained(source)
    ids = before(SENTENCES[0])["input_ids"]
    assert tokenizer(SENTENCES[0])["input_ids"] == ids and before.get_vocab().items() <= tokenizer.get_vocab().items()
    assert tokenizer(f"{SENTENCES[0]}<|table|><|cell|>")["input_ids"] == [*ids, 512, 513]
    assert tokenizer.decode([*ids, 512], skip_special_tokens=True) == SENTENCES[0]
    assert "### Response" in tokenizer.chat_template
    old, new = logits(source, ids), logits(directory, ids)
    assert new.shape[1] == 514 and torch.equal(new[:, :512], old)
    # A row that is the mean of the others gives their mean logit.
    torch.testing.assert_close(new[:, 512:], old.mean(1, keepdim=True).expand(-1, 2))


def test_the_same_import_gives_the_same_bytes_and_the_tokens_are_part_of_the_key(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source")
    first, second = (imported(source, tmp_path / name) for name in ("first", "second"))
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }
    stages = [
        ModelStage(stage="model", source=str(source), added_tokens=tokens) for tokens in ([], TOKENS, TOKENS[::-1])
    ]
    assert len({str(identity(stage, seed=0)) for stage in stages}) == 3


def test_rows_that_a_model_has_to_spare_are_taken_first(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source")
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source)
    model.resize_token_embeddings(576, mean_resizing=False)
    model.get_input_embeddings().weight.data[512:] = 7.0
    model.save_pretrained(source)
    rows = AutoModelForCausalLM.from_pretrained(imported(source, tmp_path / "output")).get_input_embeddings().weight
    assert rows.shape[0] == 576 and bool((rows[514:] == 7).all())
    torch.testing.assert_close(rows[512:514], rows[:512].mean(0, keepdim=True).expand(2, -1))


def test_tokens_that_are_there_already_are_refused(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source")
    with pytest.raises(ModelError, match=r"'<\|endoftext\|>' is in the tokenizer"):
        imported(source, tmp_path / "output", added_tokens=["<|endoftext|>"])
    with pytest.raises(ModelError, match="is in the tokenizer"):
        load_tokenizer(Store(str(source)), added_tokens=["<|table|>", "<|endoftext|>"])
    with pytest.raises(ValidationError, match="there twice"):
        imported(source, tmp_path / "output", added_tokens=["<|a|>", "<|a|>"])
