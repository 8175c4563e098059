"""What a record names is what was read: inputs that change under a run, licences of models that come from artifacts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import jobs.pipeline
from cluster.artifacts import Artifact, attempt, find_artifact, find_named
from cluster.storage import Store
from configs.loader import load_run
from configs.schema.run import Run
from jobs.pipeline import InputsChanged, PlannedStage, Watch, execute, plan_run
from jobs.quickstart_assets import LICENCES
from jobs.stages import Outcome, StageContext, run_stage
from tests.world.toy_run import CHECKOUT, ToyRun, write_toy_run

SILENT = Watch(*[lambda *_: None] * 7, stop_asked=lambda: False)


@pytest.fixture
def toy(tiny_model: Path, tmp_path: Path) -> ToyRun:
    return write_toy_run(tmp_path / "toy", tiny_model, str(tmp_path / "store"))


def _only(toy: ToyRun, name: str) -> tuple[Any, list[PlannedStage]]:
    loaded = load_run(str(toy.config))
    return loaded, [stage for stage in plan_run(loaded.run, toy.store) if stage.name == name]


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_source_that_changes_under_a_run_is_not_recorded(
    toy: ToyRun, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    documents = toy.config.parent / "documents.jsonl"
    loaded, planned = _only(toy, "papers")
    computed: list[str] = []

    def compute(stage: Any, context: StageContext) -> Outcome:
        computed.append(context.name)
        if when == "while":
            documents.write_text(documents.read_text().replace("Case 1.", "Case 0."))  # as long as before
        return Outcome()

    monkeypatch.setattr(jobs.pipeline, "run_stage", compute)
    if when == "before":
        documents.write_text(documents.read_text() + '{"text": "one more"}\n')
    with pytest.raises(InputsChanged, match=r"stages.papers: .*documents.jsonl changed while.*Run again"):
        execute(loaded, toy.store, planned, SILENT)
    assert computed == ([] if when == "before" else ["papers"])
    assert find_artifact(toy.store, "corpus", planned[0].key) is None


def test_a_model_that_changes_while_it_is_copied_is_not_recorded(
    toy: ToyRun, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_model.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    values = yaml.safe_load(toy.config.read_text())
    values["stages"]["base"]["source"] = str(model)
    toy.config.write_text(yaml.safe_dump(values, sort_keys=False))
    loaded, planned = _only(toy, "base")

    def compute(stage: Any, context: StageContext) -> Outcome:
        outcome = run_stage(stage, context)
        (model / "README.md").write_text("new terms")
        return outcome

    monkeypatch.setattr(jobs.pipeline, "run_stage", compute)
    with pytest.raises(InputsChanged, match=r"stages.base: source changed"):
        execute(loaded, toy.store, planned, SILENT)
    assert find_artifact(toy.store, "model", planned[0].key) is None


def _parent(store: Store, tiny_model: Path, licences: list[str]) -> Artifact:
    with attempt(store, "sft", "0123456789abcdef") as own:
        for path in tiny_model.iterdir():
            own.content.write(f"model/{path.name}", path.read_bytes())
        own.commit({"name": "earlier", "parents": {}, "licences": licences, "config": {}, "settings": {}})
    return find_named(store, "earlier")


@pytest.mark.parametrize(
    ("own", "told"),
    [(None, ["Apache-2.0", "CC0-1.0"]), ("LicenseRef-ours", ["Apache-2.0", "CC0-1.0", "LicenseRef-ours"])],
)
def test_a_model_from_an_artifact_keeps_its_licences(
    toy: ToyRun, tiny_model: Path, own: str | None, told: list[str]
) -> None:
    _parent(toy.store, tiny_model, ["Apache-2.0", "CC0-1.0"])
    values = yaml.safe_load(toy.config.read_text())
    base = {"stage": "model", "source": "artifact:earlier"} | ({"licence": own} if own else {})
    values["stages"] = {"base": base}
    toy.config.write_text(yaml.safe_dump(values, sort_keys=False))
    loaded, planned = _only(toy, "base")
    artifact = execute(loaded, toy.store, planned, SILENT)["base"]
    assert artifact.record["licences"] == told


def test_the_demo_tells_the_same_licences_in_lineage_and_beside_its_assets() -> None:
    run: Run = load_run(str(CHECKOUT / "configs" / "quickstart.yaml")).run
    told = {
        source.licence for stage in run.stages.values() if stage.stage == "corpus" for source in stage.sources.values()
    }
    told |= {stage.licence for stage in run.stages.values() if stage.stage == "model"}
    assert len(told) == 4
    assert [licence for licence in told if licence not in LICENCES] == []
