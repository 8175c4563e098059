"""`plan --on 64x32CPU`: corpora and shards on nodes that nobody has, of sources that need not be here."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.world.command import acclimate

RUN = {
    "name": "papers",
    "stages": {
        "base": {"stage": "model", "source": "hf:a/b@" + "0" * 40, "licence": "MIT"},
        "web": {
            "stage": "corpus",
            "sources": {
                "crawl": {
                    "path": "s3://nobody/crawl/*.jsonl.gz",
                    "licence": "ODC-By-1.0",
                    "layout": {"document": "web"},
                },
                "notes": {"path": "notes/*.txt", "licence": "MIT"},
            },
            "pii": {"tier": "patterns"},
            "near_duplicates": {},
        },
        "rows": {"stage": "shards", "corpus": "web", "model": "base", "rows": "text"},
    },
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**RUN, "store": str(tmp_path / "store")}, sort_keys=False))
    return tmp_path / "run.yaml"


def on(run: Path, *arguments: str) -> dict[str, Any]:
    answer = acclimate("plan", str(run), "--json", "--on", "64x32CPU", *arguments)
    assert answer.code == 0, answer.stderr
    return json.loads(answer.stdout)


def test_ten_terabytes_of_sources_that_are_not_here(run: Path) -> None:
    document = on(run, "--assume", "corpus_bytes=10e12")
    assert (
        document["on"] == "64x32CPU" and "not run" in document["how"] and document["assumed"]["corpus_bytes"] == 10e12
    )
    web, rows = document["stages"]
    assert (web["name"], web["bytes"], web["partitions_asked"]) == ("web", 10e12, 8)
    names = [step["step"] for step in web["steps"]]
    for told in ("read jsonl.gz", "read text", "layout, web", "personal data, patterns", "MinHash signatures"):
        assert told in names, names
    assert web["seconds"] == pytest.approx(sum(step["seconds"] for step in web["steps"]), rel=0.1)
    first = web["breaks"][0]
    assert "partition" in first["what"] and first["needs"] > first["has"] and first["breaks_from"] < 10e12
    assert first["mend"] == f"`partitions: {web['partitions']}`"
    assert rows["text_bytes"] == web["text_bytes"] and rows["breaks"][0]["mend"].startswith("`shards: ")
    assert not (run.parent / "store").exists()


def test_sources_as_they_are(run: Path) -> None:
    (run.parent / "notes").mkdir()
    (run.parent / "notes" / "a.txt").write_text("Iron. " * 1000)
    crawl = run.parent / "crawl.jsonl"
    crawl.write_text(json.dumps({"text": "Iron. " * 1000}) + "\n")
    web, _ = on(run, f"stages.web.sources.crawl.path={crawl}")["stages"]
    assert web["bytes"] == 12_000 and web["breaks"] == [] and web["partitions"] == 8
    assert "sha256 of local files, by the driver" in [step["step"] for step in web["steps"]]
    again, _ = on(run, f"stages.web.sources.crawl.path={crawl}", "--assume", "corpus_bytes=10e12")["stages"]
    assert again["bytes"] == 10e12 and again["breaks"]


def test_for_people(run: Path) -> None:
    answer = acclimate("plan", str(run), "--on", "64x32CPU", "--assume", "corpus_bytes=10e12")
    assert answer.code == 0, answer.stderr
    said = " ".join(answer.stdout.split())
    for told in ("not run", "BREAKS FIRST, from ", "mend: `partitions: ", "(the config says 8)", "through Ray Data", "together ",
                 "document_bytes 2000", "stages that train are not in it"):  # fmt: skip
        assert told in said, answer.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--assume", "mean_answer_share=1"), "there is no 'mean_answer_share'; known: corpus_bytes"),
        (("stages.web.sources.crawl.path=s3://nobody/crawl/", "--assume", "corpus_bytes=1e9"), "nothing says what"),
        (("stages.web.sources.crawl.path=nowhere.jsonl",), "nothing found at nowhere.jsonl"),
        (("stages.web.repeated_paragraphs.minimum_characters=80",), "stages.web.repeated_paragraphs=null"),
    ],
)
def test_what_can_be_got_wrong(run: Path, arguments: tuple[str, ...], told: str) -> None:
    answer = acclimate("plan", str(run), "--on", "64x32CPU", *arguments)
    assert answer.code == 2 and told in " ".join(answer.stderr.split()), answer.stderr


def test_a_run_without_texts(run: Path) -> None:
    run.write_text(yaml.safe_dump({"name": "m", "store": "s", "stages": {"base": RUN["stages"]["base"]}}))
    answer = acclimate("plan", str(run), "--on", "64x32CPU")
    assert answer.code == 2 and "prepares a corpus or shards; for models give GPUs" in " ".join(answer.stderr.split())
