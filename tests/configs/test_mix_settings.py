"""Settings of a mix: shares that do not add up and rows that do not fit are answered with the key."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from configs.schema.mix import MixStage
from configs.schema.run import Run, shards_behind, stage_inputs

README = Path(__file__).parents[2] / "README.md"
BLEND: dict[str, Any] = {"stage": "mix", "shares": {"texts": 0.7, "wiki": 0.3}}


def run_of(blend: dict[str, Any], **stages: Any) -> Run:
    """A run that trains on the mix `blend` of `texts`, `wiki`, `general` and whatever `stages` adds or changes."""
    shards = {"stage": "shards", "corpus": "papers", "model": "base", "rows": "text"}
    source = {"path": "x", "licence": "CC0-1.0"}
    values = {
        "base": {"stage": "model", "source": "m"},
        "papers": {"stage": "corpus", "sources": {"local": source}},
        "texts": shards, "wiki": shards, "general": {**shards, "rows": "messages"}, **stages,
        "blend": blend, "cpt": {"stage": "cpt", "model": "base", "shards": "blend", "steps": 1},
    }  # fmt: skip
    return Run.model_validate({"name": "x", "stages": values})


def test_shares_are_of_what_is_not_replayed() -> None:
    stage = MixStage.model_validate({**BLEND, "replay": {"shards": "general"}})
    assert stage.fractions == pytest.approx({"general": 0.05, "texts": 0.665, "wiki": 0.285})
    assert list(stage.fractions) == ["general", "texts", "wiki"]
    run = run_of({**BLEND, "replay": {"shards": "general"}})
    assert [(key, name) for key, _, name in stage_inputs(run.stages["blend"])] == [
        ("shares.texts", "texts"), ("shares.wiki", "wiki"), ("replay.shards", "general"),
    ]  # fmt: skip
    assert set(shards_behind(run, "blend")) == {"texts", "wiki", "general"} and set(shards_behind(run, "wiki")) == {
        "wiki"
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shares": {"texts": 0.7, "wiki": 0.4}}, "shares sum to 1.1, not to 1: .*Change one by -0.1"),
        ({"shares": {"texts": 1, "wiki": 0}}, "greater than 0"),
        ({"shares": {}}, "at least 1 item"),
        ({"replay": {"shards": "texts"}}, "texts is in shares and in replay"),
        ({"replay": {"shards": "general", "share": 1.0}}, "less than 1"),
        ({"repeat": {"papers": 2}}, "repeat.papers: not in this mix, which is made of texts, wiki"),
        ({"repeat": {"texts": 0}}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_mixed_is_refused(change: dict[str, Any], said: str) -> None:
    MixStage.model_validate(BLEND)
    with pytest.raises(ValidationError, match=said):
        MixStage.model_validate({**BLEND, **change})


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"wiki": {"rows": "prompts"}}, "stages.blend.shares.wiki: 'wiki' has `rows: prompts`"),
        (
            {"wiki": {"context": 512}},
            "stages.blend.shares: rows of one mix have one `context`; there are texts 1024, wiki 512",
        ),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages: dict[str, dict[str, Any]], said: str) -> None:
    shards = {"stage": "shards", "corpus": "papers", "model": "base", "rows": "text"}
    with pytest.raises(ValidationError, match=re.escape(said)):
        run_of(BLEND, **{name: {**shards, **changes} for name, changes in stages.items()})


def test_only_language_models_learn_from_a_mix() -> None:
    judged = {"stage": "reward", "model": "base", "shards": "blend", "steps": 1}
    values = run_of(BLEND).model_dump(exclude_unset=True)
    values["stages"]["reward"] = judged
    with pytest.raises(ValidationError, match="stages.reward.shards: 'blend' is a mix stage, needed: shards"):
        Run.model_validate(values)


def test_the_example_of_the_readme_is_a_mix() -> None:
    [block] = [text for text in re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL) if "stage: mix" in text]
    run = run_of(BLEND)
    stages = yaml.safe_load(block)
    assert all(isinstance(MixStage.model_validate(stage), MixStage) for stage in stages.values())
    assert set(stages["blend"]["shares"]) == set(run.stages) & {"texts", "wiki"}
    assert isinstance(run_of(stages["blend"]).stages["blend"], MixStage)
