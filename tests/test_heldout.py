"""What an evaluation cannot find is said before the training it comes after."""

import re
from pathlib import Path
from typing import Any

import pytest

from configs.schema.run import Run
from jobs.evaluate.heldout import EvaluationError
from jobs.heldout import check_documents, check_fractions
from tests.world.command import acclimate, require_refused
from tests.world.toy_run import toy_run_values, write_toy_run


def toy(**papers: Any) -> Run:
    values = toy_run_values(Path("model"), Path("documents.jsonl"), "store")
    values["stages"]["papers"].update(papers)
    values["stages"]["cpt"]["heldout"] = {}
    return Run.model_validate(values)


@pytest.mark.parametrize(("name", "key"), [("evaluation", "sets.texts.documents"), ("cpt", "heldout")])
def test_a_corpus_that_holds_nothing_out_is_refused(name: str, key: str) -> None:
    run = toy(heldout_fraction=0)
    with pytest.raises(EvaluationError, match=re.escape(f"stages.{name}.{key}: papers holds no document out")):
        check_fractions(run, name, run.stages[name])
    check_fractions(toy(), name, run.stages[name])


def test_a_mix_is_measured_on_where_one_of_its_corpora_holds_something_out() -> None:
    def mixed(papers: float, wiki: float, shares: dict[str, float]) -> Run:
        values = toy_run_values(Path("model"), Path("documents.jsonl"), "store")
        stages = values["stages"]
        stages["papers"]["heldout_fraction"] = papers
        stages |= {
            "wiki": {**stages["papers"], "heldout_fraction": wiki}, "general": {**stages["texts"], "corpus": "wiki"},
            "blend": {"stage": "mix", "shares": shares, "replay": {"shards": "tasks"}},
        }  # fmt: skip
        stages["tasks"]["context"] = stages["texts"]["context"]
        stages["mixed"] = {**stages["cpt"], "shards": "blend", "heldout": {}}
        return Run.model_validate(values)

    both = {"texts": 0.5, "general": 0.5}
    for fractions in ((0.1, 0), (0, 0.1)):
        run = mixed(*fractions, both)
        check_fractions(run, "mixed", run.stages["mixed"])
    # What is replayed (`tasks`, of papers) is not what is learnt.
    for run in (mixed(0, 0, both), mixed(0.1, 0, {"general": 1.0})):
        with pytest.raises(EvaluationError, match=r"stages\.mixed\.heldout: .* holds no document out"):
            check_fractions(run, "mixed", run.stages["mixed"])


@pytest.mark.parametrize(
    ("heldout", "conversations", "said"),
    [
        (7, 40, "stages.evaluation.sets.texts.documents: 8 held-out documents asked for, papers has 7"),
        (9, 3, "stages.evaluation.sets.tasks.documents: 4 held-out conversations asked for, papers has 3"),
        (0, 0, "stages.cpt.heldout: 1 held-out documents asked for, papers has 0"),
    ],
)
def test_a_corpus_that_holds_too_little_out_is_refused_when_it_is_done(
    heldout: int, conversations: int, said: str
) -> None:
    run = toy()
    with pytest.raises(EvaluationError, match=re.escape(said)):
        check_documents(run, run.stages, "papers", {"heldout": heldout, "conversations": conversations})
    check_documents(run, run.stages, "papers", {"heldout": 8, "conversations": 4})


def test_a_run_of_it_ends_before_anything_is_computed(tiny_model: Path, tmp_path: Path) -> None:
    run = write_toy_run(tmp_path / "toy", tiny_model, str(tmp_path / "store"))
    refused = acclimate("run", str(run.config), "stages.papers.heldout_fraction=0", "--yes")
    require_refused(refused, 2, "stages.evaluation.sets.texts.documents", "heldout_fraction: 0")
    assert not (tmp_path / "store" / "artifacts").exists()
