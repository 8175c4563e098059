"""Two models, one corpus, one small Ray: the evaluation's shape and that it does not depend on what ran beside it."""

import json
from pathlib import Path

import pytest

from cluster.session import connect
from cluster.storage import Store
from configs.schema.corpus import CorpusStage
from configs.schema.evaluation import EvaluateStage
from configs.schema.run import Cluster
from jobs.corpus.collect import build_corpus
from jobs.corpus.template import PRESETS
from jobs.evaluate.evaluate import evaluate
from jobs.evaluate.heldout import EvaluationError
from tests.world.tiny_model import SENTENCES, write_tiny_model

pytestmark = pytest.mark.cluster

STAGE = {
    "stage": "evaluate",
    "models": ["before", "after"],
    "sets": {
        "prose": {"corpus": "corpus", "rows": "text", "documents": 4, "tokens": 64},
        "answers": {"corpus": "corpus", "rows": "messages", "documents": 3, "tokens": 256},
    },
    "answers": {"corpus": "corpus", "prompts": 2, "max_tokens": 5},
    "precision": "fp32",
}


def corpus_stage(path: Path) -> CorpusStage:
    """Everything held out."""
    return CorpusStage.model_validate(
        {
            "stage": "corpus",
            "sources": {"talks": {"path": str(path), "format": "jsonl", "licence": "CC0-1.0"}},
            "cleaning": {"minimum_characters": 0},
            "heldout_fraction": 1.0,
            "partitions": 2,
        }
    )


def talk(number: int) -> str:
    messages = [
        {"role": "user", "content": SENTENCES[number]},
        {"role": "assistant", "content": SENTENCES[number + 1]},
    ]
    return json.dumps({"messages": messages})


def test_two_models(tmp_path: Path):
    (tmp_path / "talks.jsonl").write_text("\n".join(talk(number) for number in range(6)))
    models = {name: write_tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate(["before", "after"])}
    for path in models.values():
        (path / "chat_template.jinja").write_text(PRESETS["instruction"].read_text())
    stores = {name: Store(str(path)) for name, path in models.items()}
    stage = EvaluateStage.model_validate(STAGE)
    corpora = {"corpus": Store(str(tmp_path / "corpus"))}
    seen: list[tuple[int, int]] = []
    with connect(Cluster(logical_cpus=2)):
        build_corpus(corpus_stage(tmp_path / "talks.jsonl"), corpora["corpus"], lambda label, done, total: None)
        result = evaluate(
            stage, stores, corpora, Store(str(tmp_path / "out")), lambda label, *counts: seen.append(counts)
        )
        again = evaluate(stage, {"after": stores["after"]}, corpora, Store(str(tmp_path / "again")), lambda *_: None)
        (models["after"] / "chat_template.jinja").unlink()
        with pytest.raises(EvaluationError, match="after has no chat template"):
            evaluate(stage, stores, corpora, Store(str(tmp_path / "refused")), lambda *_: None)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == result
    assert result["models"] == ["before", "after"] and list(result["sets"]) == ["prose", "answers"]
    assert seen[0] == (0, 8) and seen[-1] == (8, 8)
    assert seen.count((0, 8)) > 1, "asked also while nothing is ready, so that a wish to stop is heard"
    documents = {name: [row["document_id"] for row in sets["prose"]] for name, sets in result["documents"].items()}
    assert documents["before"] == documents["after"] == sorted(documents["before"]) and len(documents["before"]) == 4
    assert again["scores"]["after"] == result["scores"]["after"], "what runs beside a model does not change its bits"
    assert result["scores"]["before"] != result["scores"]["after"]
    before, after = (result["scores"][name]["prose"]["loss"] for name in ("before", "after"))
    assert result["changes"]["after"]["prose"]["loss"] == pytest.approx(after / before - 1)
    assert [set(answer["answers"]) for answer in result["answers"]] == [{"before", "after"}] * 2
    assert all(answer["reference"] in SENTENCES for answer in result["answers"])
