"""What a run file says of corpora that cannot be, or cannot be known yet."""

from typing import Any

import pytest
from pydantic import ValidationError

from configs.schema.corpus import ShardsStage
from configs.schema.run import Run
from jobs.preflight.gate import refused_sources


def corpus(licence: str = "CC0-1.0", **settings: Any) -> dict[str, Any]:
    source = {"path": "rows.jsonl", "licence": licence, **settings.pop("source", {})}
    return {"stage": "corpus", "sources": {"rows": source}, **settings}


def test_an_earlier_corpus_has_something_to_compare_with() -> None:
    later = corpus(near_duplicates={"against": ["earlier"]})
    with pytest.raises(
        ValidationError, match=r"stages\.later\.near_duplicates\.against\.0: 'earlier' keeps no signatures"
    ):
        Run.model_validate({"name": "x", "stages": {"earlier": corpus(), "later": later}})
    Run.model_validate({"name": "x", "stages": {"earlier": corpus(near_duplicates={}), "later": later}})


def test_a_source_whose_rows_have_licences_is_not_refused_by_its_own() -> None:
    shards = ShardsStage.model_validate({"stage": "shards", "corpus": "papers", "model": "base", "rows": "text"})
    by_column = {"licence_column": "licence"}
    for source, refused in (({}, {"rows": "train: CC-BY-NC-4.0 is not in gate.train"}), (by_column, {})):
        run = Run.model_validate({"name": "x", "stages": {"papers": corpus("CC-BY-NC-4.0", source=source)}})
        assert refused_sources(shards, run.stages) == refused
