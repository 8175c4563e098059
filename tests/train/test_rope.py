"""A longer context by config: written into config.json, read by the plan, training, export and transformers alike."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from cluster.storage import Store
from configs.schema.objectives import Lora
from configs.schema.run import ModelStage, RopeScaling
from configs.schema.training import Optimizer
from jobs.models import import_model, resolve_source
from jobs.rope import RopeError, scaled_config
from jobs.stages import identity
from jobs.train.batch import pack_rows
from jobs.train.fsdp import build_mesh
from jobs.train.learner import Learner, LearnerSpec
from tests.train.test_attention_leak import alone_in_transformers, row, segment
from tests.train.tiny_models import save_tiny_model
from tests.world.command import acclimate, require_refused
from tests.world.toy_run import write_toy_run

YARN = RopeScaling(rope_type="yarn", factor=4.0)


def test_what_is_written_by_hand() -> None:
    new = {
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"},
        "vocab_size": 7,
    }
    assert scaled_config(new, YARN, "m") == {
        "max_position_embeddings": 1024, "vocab_size": 7,
        "rope_parameters": {"rope_theta": 5e5, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
    }  # fmt: skip
    old = {"max_position_embeddings": 256, "rope_theta": 5e5, "rope_scaling": None}
    assert scaled_config(old, RopeScaling(rope_type="linear", factor=2.5), "m") == {
        "max_position_embeddings": 640, "rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.5},
    }  # fmt: skip
    llama3 = scaled_config(old, RopeScaling.model_validate({"rope_type": "llama3", "factor": 8}), "m")["rope_scaling"]
    assert (llama3["low_freq_factor"], llama3["high_freq_factor"]) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"rope_theta": 1e4}, "no max_position_embeddings"),
        ({"max_position_embeddings": 8, "rope_scaling": {"type": "linear", "factor": 2}}, "scaled already"),
        (
            {"max_position_embeddings": 8, "rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "full_attention",
        ),
    ],
)
def test_what_cannot_be_scaled_is_refused(config: dict[str, Any], told: str) -> None:
    with pytest.raises(RopeError, match=told):
        scaled_config(config, YARN, "m")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rope_type": "dynamic", "factor": 2}, "choose yarn or linear"),
        ({"rope_type": "linear", "factor": 2, "beta_fast": 3}, "not a setting of rope_type linear"),
        ({"rope_type": "yarn", "factor": 1}, "greater than 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RopeScaling.model_validate(values)


def imported(source: Path, output: Path, scaling: RopeScaling | None) -> Path:
    stage = ModelStage(stage="model", source=str(source), rope_scaling=scaling)
    import_model(stage, resolve_source(str(source)), Store(str(output)), lambda label, done, total: None)
    return output / "model"


@pytest.fixture
def source(tiny_model: Path, tmp_path: Path) -> Path:
    """Weights of which attention makes something, beside the tokenizer of the tiny model."""
    directory = save_tiny_model(tmp_path / "source", "llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((tiny_model / name).read_bytes())
    return directory


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize("rope_type", ["linear", "yarn", "llama3"])
def test_training_export_and_transformers_have_the_same_angles(
    source: Path, tmp_path: Path, one_rank: object, rope_type: str, old_names: bool
) -> None:
    """On a text longer than the window the model came with (256)."""
    if old_names:
        config = json.loads((source / "config.json").read_text())
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        (source / "config.json").write_text(json.dumps(config))
    scaling = RopeScaling.model_validate({"rope_type": rope_type, "factor": 4})
    model = imported(source, tmp_path / "scaled", scaling)
    ids = segment(400, 3)
    learner = Learner(LearnerSpec(Store(str(model)), "fp32", None), build_mesh(dist.get_world_size()))
    learner.load()
    ours = learner.forward(pack_rows([row(ids)]))
    theirs = alone_in_transformers(AutoModelForCausalLM.from_pretrained(model), ids)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
    unscaled = alone_in_transformers(AutoModelForCausalLM.from_pretrained(source), ids)
    assert float((theirs - unscaled).abs().max()) > 0.05
    learner.export(Store(str(tmp_path / "exported")))
    again = alone_in_transformers(AutoModelForCausalLM.from_pretrained(tmp_path / "exported"), ids)
    assert torch.equal(again, theirs)


def test_adapters_belong_to_the_scaled_model(source: Path, tmp_path: Path, one_rank: object) -> None:
    model = imported(source, tmp_path / "scaled", YARN)
    spec = LearnerSpec(Store(str(model)), "fp32", Optimizer(), lora=Lora(rank=4))
    learner = Learner(spec, build_mesh(dist.get_world_size()))
    learner.load()
    learner.export(Store(str(tmp_path / "merged")))
    learner.export_adapters(Store(str(tmp_path / "adapter")))
    wanted = json.loads((model / "config.json").read_text())
    assert wanted["rope_parameters"]["rope_type"] == "yarn" and wanted["max_position_embeddings"] == 1024
    assert json.loads((tmp_path / "merged/config.json").read_text()) == wanted
    base = json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"]
    assert json.loads(Path(base, "config.json").read_text()) == wanted


def test_it_is_part_of_what_the_model_is(source: Path) -> None:
    stages = [
        ModelStage(stage="model", source=str(source), rope_scaling=scaling)
        for scaling in (None, YARN, RopeScaling(rope_type="yarn", factor=8.0))
    ]
    identities = [json.dumps(identity(stage, 0), sort_keys=True) for stage in stages]
    assert len(set(identities)) == 3


def test_the_plan_counts_with_the_longer_context(tiny_model: Path, tmp_path: Path) -> None:
    toy = write_toy_run(tmp_path / "toy", tiny_model, str(tmp_path / "store"))
    longer = ("stages.base.rope_scaling={rope_type: yarn, factor: 2}", "stages.cpt.batch_tokens=4096")
    assert acclimate("plan", str(toy.config), *longer, "stages.texts.context=2048").code == 0
    told = ("stages.texts.context: 2049", "max_position_embeddings 2048", "rope_scaling")
    require_refused(acclimate("plan", str(toy.config), *longer, "stages.texts.context=2049"), 2, *told, store=toy.store)
