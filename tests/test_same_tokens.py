"""Rows, general text and a reference must mean the same tokens as the model that is trained."""

import shutil
from pathlib import Path

import pytest

from cluster.artifacts import Artifact, attempt, find_artifact
from cluster.storage import Store
from jobs.corpus.schema import DataError
from jobs.corpus.segments import read_tokenizer_files
from jobs.same_tokens import check_same_tokens
from tests.world.tiny_model import write_tiny_model


def made(store: Store, kind: str, key: str, model: Path | None = None, tokenizer: str | None = None) -> Artifact:
    """A model with the files of a directory, or shards that say with which tokenizer they were made."""
    with attempt(store, kind, key) as own:
        if model is not None:
            shutil.copytree(model, Path(own.content.root, "model"))
        own.content.write_json("manifest.json", {"tokenizer_sha256": tokenizer})
        own.commit({"name": key, "parents": {}, "licences": [], "config": {}, "settings": {}})
    artifact = find_artifact(store, kind, key)
    assert artifact is not None
    return artifact


def test_each_input_is_compared_and_named(tmp_path: Path, tiny_model: Path) -> None:
    store = Store(str(tmp_path / "store"))
    sha256 = read_tokenizer_files(Store(str(tiny_model))).sha256
    templated = Path(shutil.copytree(tiny_model, tmp_path / "templated"))
    (templated / "chat_template.jinja").write_text("{{ messages[0].content }}")
    inputs = {
        "model": made(store, "model", "base", tiny_model),
        "shards": made(store, "shards", "rows", tokenizer=sha256),
        "heldout.general": made(store, "shards", "general", tokenizer=sha256),
        "reference": made(store, "model", "older", templated),
    }
    check_same_tokens("dpo", inputs, trust_remote_code=False)
    other = made(store, "shards", "strange", tokenizer="0" * 64)
    larger = made(store, "model", "larger", write_tiny_model(tmp_path / "larger", vocabulary=520))
    for key, artifact, says in (
        ("shards", other, "stages.dpo.shards: strange was made with another tokenizer"),
        ("heldout.general", other, "stages.dpo.heldout.general: strange was made with another tokenizer"),
        ("reference", larger, "stages.dpo.reference: larger has another vocabulary than base"),
    ):
        with pytest.raises(DataError, match=says):
            check_same_tokens("dpo", inputs | {key: artifact}, trust_remote_code=False)
