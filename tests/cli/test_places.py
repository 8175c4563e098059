"""Every verb means the same store, whichever way it was named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.artifacts import attempt
from cluster.runs import RunLog
from cluster.storage import Store
from tests.world.command import Answer, acclimate
from tests.world.toy_run import ToyRun, write_toy_run

KEY = "a" * 16


@pytest.fixture
def toy(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyRun:
    """A run file whose `store` is ./in-the-file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCLIMATE_STORE", raising=False)
    return write_toy_run(tmp_path / "toy", tiny_model, "in-the-file", without=("sft", "evaluation", "report"))


@pytest.fixture
def filled(tmp_path: Path) -> Callable[[str], str]:
    """Makes a store with one model and one finished run, whose id it returns."""

    def fill(name: str) -> str:
        store = Store(str(tmp_path / name))
        with attempt(store, "model", KEY) as own:
            own.commit({"name": "base", "parents": {}, "licences": [], "config": {}})
        log = RunLog(store, "toy", {}, {})
        log.finish("succeeded")
        return log.run_id

    return fill


def _planned_in(*arguments: str) -> str:
    answer = acclimate("plan", *arguments, "--json")
    assert answer.code == 0, answer.stderr
    return Path(json.loads(answer.stdout)["store"]).name


def test_the_order_is_option_override_variable_file(toy: ToyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    config = str(toy.config)
    assert _planned_in(config) == "in-the-file"
    monkeypatch.setenv("ACCLIMATE_STORE", "from-the-variable")
    assert _planned_in(config) == "from-the-variable"
    assert _planned_in(config, "store=from-the-override") == "from-the-override"
    assert _planned_in(config, "--store", "from-the-option") == "from-the-option"
    assert _planned_in(config, "--store", "2026") == "2026", "a name, though YAML would read a number"
    monkeypatch.setenv("ACCLIMATE_STORE", "")
    assert _planned_in(config) == "in-the-file"


def test_two_stores_on_one_command_line_are_refused(toy: ToyRun) -> None:
    for verb in (("plan",), ("data", "check"), ("data", "preview")):
        answer = acclimate(*verb, str(toy.config), "store=one", "--store", "two")
        assert answer.code == 2 and "two stores" in answer.stderr
    assert _planned_in(str(toy.config), "store=one", "--store", "one") == "one"


@pytest.mark.parametrize("by", ["option", "variable"])
def test_verbs_that_look_take_it_too(
    toy: ToyRun, filled: Callable[[str], str], by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del toy
    run_id = filled("chosen")
    if by == "variable":
        monkeypatch.setenv("ACCLIMATE_STORE", "chosen")

    def ask(*arguments: str) -> Answer:
        return acclimate(*arguments, *(("--store", "chosen") if by == "option" else ()))

    assert json.loads(ask("ls", "--json").stdout)["artifacts"][0]["name"] == "base"
    assert json.loads(ask("status", run_id, "--json").stdout)["status"] == "succeeded"
    assert ask("logs", run_id).code == 0
    assert "had succeeded before" in ask("stop", run_id).stderr
    assert json.loads(ask("lineage", "base", "--json").stdout)["artifact"] == f"model-{KEY}"
    assert json.loads(ask("gc", "--json").stdout)["leftovers"] == []
    assert "base (model-aaaaaaaaaaaaaaaa) has no adapters" in ask("merge", "base").stderr
    # Found, and only then refused: it is no model that could be served.
    assert "chosen/artifacts/model-" in ask("serve", "base").stderr
    findings = {finding["name"]: finding for finding in json.loads(ask("doctor", "--json").stdout)}
    assert findings["store"]["message"].startswith("chosen ")


def test_eval_takes_overrides_and_a_store(
    toy: ToyRun, filled: Callable[[str], str], tiny_model: Path, tmp_path: Path
) -> None:
    filled("chosen")
    with_evaluation = write_toy_run(tmp_path / "whole", tiny_model, "in-the-file")
    answer = acclimate("eval", "base", "--config", str(with_evaluation.config), "--store", "chosen")
    # Planned against the chosen store, where the model is found and the corpus is not.
    assert answer.code == 2 and "papers is not computed yet" in answer.stderr, answer.stderr
    answer = acclimate("eval", "base", "stages.evaluation.precison=bf16", "--config", str(with_evaluation.config))
    assert answer.code == 2 and "did you mean `precision`" in " ".join(answer.stderr.split()), answer.stderr
    assert "no model is named" in acclimate("eval", "seed=1", "--config", str(with_evaluation.config)).stderr
    del toy


def test_help_says_the_order_for_every_verb_that_has_a_store() -> None:
    verbs = [
        "plan",
        "run",
        "submit",
        "status",
        "logs",
        "ls",
        "stop",
        "eval",
        "serve",
        "merge",
        "lineage",
        "gc",
        "doctor",
    ]
    for verb in [*([verb] for verb in verbs), ["data", "check"], ["data", "preview"]]:
        words = acclimate(*verb, "--help").stdout.replace("│", " ").split()
        assert "ACCLIMATE_STORE, then `store:` of the run file, then" in " ".join(words), verb


def test_a_store_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    missing = acclimate("ls", "--store", str(tmp_path / "typo"))
    assert missing.code == 2 and f"there is no directory {tmp_path / 'typo'}" in " ".join(missing.stderr.split())
    (tmp_path / "empty").mkdir()
    empty = acclimate("ls", "--store", str(tmp_path / "empty"), "--json")
    assert empty.code == 0 and json.loads(empty.stdout)["artifacts"] == []
