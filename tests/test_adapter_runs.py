"""Stages that go on with adapters or begin new ones, and `acclimate merge`: one run, its artifacts and their lineage."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jobs.merging import adapters_of
from tests.world.command import acclimate, require_refused
from tests.world.toy_run import ToyRun, write_toy_run

LORA = "{rank: 4, alpha: 8}"
GOES_ON = "{rank: 4, alpha: 8, start: continue}"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> ToyRun:
    """cpt with adapters; sft goes on with them."""
    directory = tmp_path_factory.mktemp("adapted")
    run = write_toy_run(directory, tiny_model, str(directory / "store"), without=("evaluation", "report"))
    code, output = run.finish(f"stages.cpt.lora={LORA}", f"stages.sft.lora={GOES_ON}", timeout_s=500)
    assert code == 0, output
    return run


def _weights(directory: str) -> dict[str, torch.Tensor]:
    return load_file(Path(directory, "model.safetensors"))


@pytest.mark.cluster
def test_a_stage_goes_on_with_the_adapters_of_the_one_before(adapted: ToyRun) -> None:
    cpt, sft, base = (adapted.artifact(name) for name in ("cpt", "sft", "base"))
    assert adapters_of(adapted.store, sft).base.key == base.key == adapters_of(adapted.store, cpt).base.key
    assert sft.record["parents"]["model"] == f"cpt-{cpt.key}"
    assert sft.content.read_json("adapter", "adapter_config.json")["base_model_name_or_path"] == base.content.path(
        "model"
    )
    before, after = (
        load_file(Path(artifact.content.path("adapter"), "adapter_model.safetensors")) for artifact in (cpt, sft)
    )
    for name, tensor in after.items():
        # Three steps of AdamW at 5e-3 move a number by less than 0.02; A drawn anew would differ by far more.
        assert 0 < float((tensor - before[name]).abs().max()) < 0.02, name


@pytest.mark.cluster
def test_merging_makes_an_artifact_that_knows_both_parents(adapted: ToyRun, tmp_path: Path) -> None:
    store = adapted.store.root
    for _ in range(2):  # the second time it is there already
        answer = acclimate("merge", "sft", "--into", "whole", "--store", store)
        assert answer.code == 0, answer.stderr
        assert answer.stdout.startswith("model whole (model-") and "rank 4 on the weights as stored" in answer.stdout
    merged = adapted.artifact("whole")
    assert merged.record["parents"] == {
        "adapter": f"sft-{adapted.artifact('sft').key}", "base": f"model-{adapted.artifact('base').key}",
    }  # fmt: skip
    assert merged.record["licences"] == ["Apache-2.0", "CC0-1.0"]
    own = _weights(adapted.artifact("sft").content.path("model"))
    for name, tensor in _weights(merged.content.path("model")).items():
        assert torch.equal(tensor, own[name])
    lineage = json.loads(acclimate("lineage", "whole", "--json", "--store", store).stdout)
    assert {record["kind"] for record in lineage["records"].values()} == {"model", "sft", "cpt", "shards", "corpus"}
    answer = acclimate(
        "merge", adapted.artifact("cpt").content.path("adapter"), "--into", f"{tmp_path}/out", "--store", store
    )
    assert answer.code == 0, answer.stderr
    assert torch.equal(_weights(f"{tmp_path}/out")["model.norm.weight"], own["model.norm.weight"])


@pytest.mark.cluster
def test_what_cannot_be_merged_is_said(adapted: ToyRun, tmp_path: Path) -> None:
    store = adapted.store.root
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    require_refused(acclimate("merge", "base", "--store", store), 2, "base (model-", "not trained with `lora`")
    require_refused(acclimate("merge", "sft", "--into", f"{tmp_path}/full", "--store", store), 2, "is not empty")
    require_refused(acclimate("merge", str(tmp_path / "full"), "--store", store), 2, "has no adapter_config.json")
    continued = ("stages.sft.model=base", f"stages.sft.lora={GOES_ON}")
    require_refused(acclimate("run", str(adapted.config), *continued), 2, "'base' has no adapters to continue")
    outside = ("stages.sft.model=artifact:base", f"stages.sft.lora={GOES_ON}")
    require_refused(acclimate("run", str(adapted.config), *outside), 2, "base (model-", "not trained with `lora`")
