"""A model that brings Python of its own: refused unless trusted, and then trained and measured as any other."""

from pathlib import Path

import pytest
import yaml

from cluster.storage import Store
from configs.schema.training import LanguageModelStage
from jobs.train.model import build_on_meta, read_config
from jobs.train.trainable import require_trainable
from tests.world.command import acclimate, require_refused
from tests.world.own_model import write_own_model
from tests.world.toy_run import ToyRun, write_toy_run


@pytest.fixture
def own_model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model as a class of its own. Its code is copied into a cache of this test only."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return write_own_model(tmp_path / "own", tiny_model)


@pytest.fixture
def toy(own_model: Path, tmp_path: Path) -> ToyRun:
    return write_toy_run(tmp_path / "toy", own_model, str(tmp_path / "store"), without=("tasks", "sft", "report"))


def _evaluate_two(toy: ToyRun) -> None:
    values = yaml.safe_load(toy.config.read_text())
    values["stages"]["evaluation"]["models"] = ["base", "cpt"]
    toy.config.write_text(yaml.safe_dump(values, sort_keys=False))


def test_it_is_refused_by_name_with_the_key(toy: ToyRun, own_model: Path) -> None:
    _evaluate_two(toy)
    for verb in ("run", "plan"):
        told = (str(own_model), "Python code", "`trust_remote_code: true` in the model stage")
        require_refused(acclimate(verb, str(toy.config)), 2, *told, store=toy.store)


def test_its_class_is_built_where_it_is_trusted(own_model: Path) -> None:
    store = Store(str(own_model))
    module = build_on_meta(read_config(store, trust_remote_code=True), trust_remote_code=True)
    assert type(module.model).__name__ == "LlamaModel" and len(module.layers) == 2
    stage = LanguageModelStage(stage="cpt", model="m", shards="s", steps=1)
    assert require_trainable(store, True, stage).trained == 106_816


@pytest.mark.cluster
def test_a_trusted_model_is_packed_trained_and_measured(toy: ToyRun, tmp_path: Path) -> None:
    _evaluate_two(toy)
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    code, output = toy.finish("stages.base.trust_remote_code=true", environment=environment)
    assert code == 0, output
    trained = toy.artifact("cpt").content.below("model")
    assert trained.exists("modeling_own.py") and trained.read_json("config.json")["model_type"] == "own"
    assert set(toy.artifact("evaluation").content.read_json("evaluation.json")["scores"]) == {"base", "cpt"}
    assert toy.artifact("evaluation").record["licences"] == ["Apache-2.0", "CC0-1.0"]
