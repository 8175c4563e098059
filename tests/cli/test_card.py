"""`acclimate data card`: a page, JSON, and what it refuses."""

import json
from pathlib import Path

import pytest

from tests.world.command import acclimate, require_refused
from tests.world.toy_corpus import make_here, write_corpus_run
from tests.world.toy_run import ToyRun


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    directory = tmp_path_factory.mktemp("carded")
    made = write_corpus_run(directory / "run", tiny_model, str(directory / "store"))
    make_here(made)
    return made


def test_a_page_and_what_is_said_of_it(run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = acclimate("data", "card", "texts", "--store", run.store.root)
    assert answer.code == 0, answer.stderr
    assert "tokens for training" in answer.stdout and "6 rows set aside" in answer.stdout
    assert "nothing of them is shown: secret" in answer.stdout and answer.stdout.endswith("card.html\n")
    assert (tmp_path / "card.html").read_text().startswith("<!doctype html>")
    again = acclimate("data", "card", run.artifact("texts").key, "--store", run.store.root, "--out", "other.html")
    assert again.code == 0 and (tmp_path / "other.html").read_bytes() == (tmp_path / "card.html").read_bytes()


def test_json_alone_writes_no_page(run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = acclimate("data", "card", "corpus", "--store", run.store.root, "--json", "--documents", "9", "--seed", "4")
    card = json.loads(answer.stdout)
    assert card["shards"] is None and card["corpus"]["sampled"] == 9 and card["corpus"]["seed"] == 4
    assert card["corpus"]["documents_by_licence"] == {"CC-BY-4.0": 80, "CC0-1.0": 40, "LicenseRef-Own": 20}
    assert list(tmp_path.iterdir()) == []
    both = acclimate("data", "card", "corpus", "--store", run.store.root, "--json", "--out", "page.html")
    assert json.loads(both.stdout)["corpus"]["sampled"] == 140 and (tmp_path / "page.html").exists()


def test_what_has_no_card_is_refused(run: ToyRun, tmp_path: Path) -> None:
    answer = acclimate("data", "card", "base", "--store", run.store.root)
    require_refused(answer, 2, "no finished corpus or shards or mix is called 'base'", "corpus (", "texts (")
    nowhere = tmp_path / "none" / "card.html"
    answer = acclimate("data", "card", "corpus", "--store", run.store.root, "--out", str(nowhere))
    require_refused(answer, 2, f"--out {nowhere}", "name a file in a directory that is there")
