"""From people's files of judged answers to models, by the command line: pairs, thumbs, and SFT on the best answers."""

import io
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.world.toy_judgements import write_toy_judgements
from tests.world.toy_run import ToyRun

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> ToyRun:
    directory = tmp_path_factory.mktemp("judged")
    run = write_toy_judgements(directory, tiny_model, str(directory / "store"))
    code, output = run.finish(timeout_s=540)
    assert code == 0, output
    return run


def test_every_objective_learns_from_the_rows_of_the_corpus(run: ToyRun) -> None:
    assert run.artifact("opinions").record["counts"]["documents_by_format"] == {"pairs": {"preferences": 60}}
    assert run.artifact("votes").record["counts"]["documents_by_format"] == {"thumbs": {"thumbs": 60}}
    for name, measure in (
        ("reward", "heldout/accuracy"),
        ("dpo", "heldout/rewards/accuracies"),
        ("kto", "heldout/loss"),
    ):
        history = run.artifact(name).content.read_json("history.json")
        assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3]
        assert all(math.isfinite(entry["loss"]) for entry in history if "loss" in entry)
        assert measure in history[-1]
    # The model is its own reference, so before the first step every log-ratio is 0 and the loss of a pair is log 2.
    first = run.artifact("dpo").content.read_json("history.json")[1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert run.artifact("orpo").record["licences"] == ["Apache-2.0", "CC0-1.0"]


def test_no_prompt_is_on_both_sides_and_pairs_begin_alike(run: ToyRun) -> None:
    content = run.artifact("pairs").content
    prompts: dict[str, set[tuple[int, ...]]] = {"train": set(), "heldout": set()}
    for split, found in prompts.items():
        for name in content.names(split):
            if name == "index.parquet":
                continue
            for row in pq.read_table(io.BytesIO(content.read(split, name))).to_pylist():
                first, second = row["prompt_lengths"]
                start = row["segment_lengths"][0]
                assert row["input_ids"][:first] == row["input_ids"][start : start + second]
                assert not any(row["weights"][:first]) and row["weights"][first] == 1
                found.add(tuple(row["input_ids"][:first]))
    assert len(prompts["train"]) + len(prompts["heldout"]) == 30
    assert prompts["train"] and prompts["heldout"] and not prompts["train"] & prompts["heldout"]
