"""`acclimate data filter`: what rules would drop of small files, by numbers that can be counted; nothing is dropped or written."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.storage import Store
from configs.schema.quality import Quality
from jobs.inspection.quality import ScoredDocument, excerpt, source_report
from jobs.models import load_tokenizer
from tests.world.command import acclimate, require_refused
from tests.world.toy_run import ToyRun

GOOD = "The cells of the tissue have to divide, and they do that with sugar. "
CODE = "The function is called with a brace like this { and it is ended. Nobody knows the rest of that."
CHINESE = "细胞是生物体基本的结构和功能单位。它们分裂。"
SOURCES = {
    "papers": [*(f"{GOOD}Case {n}." for n in range(6)), CODE, "Too few.", CHINESE * 10, "\x1b[31mred[/red] " + GOOD],
    "notes": [f"{GOOD}Note {n}." for n in range(3)],
}


def write_run(directory: Path, **corpus: Any) -> ToyRun:
    """A run of one corpus stage, `texts`, over SOURCES."""
    sources: dict[str, dict[str, Any]] = {}
    for name, texts in SOURCES.items():
        path = directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        sources[name] = {"path": str(path), "format": "jsonl", "licence": "CC0-1.0", **corpus.pop(name, {})}
    stage = {"stage": "corpus", "sources": sources, "cleaning": {"minimum_characters": 1}, **corpus}
    config = directory / "filters.yaml"
    config.write_text(
        yaml.safe_dump({"name": "filters", "store": str(directory / "store"), "stages": {"texts": stage}})
    )
    return ToyRun(config, Store(str(directory / "store")))


def filtered(run: ToyRun, *arguments: str) -> dict[str, Any]:
    """By source, then by set, of the one stage."""
    answer = acclimate("data", "filter", str(run.config), *arguments, "--json")
    assert answer.code == 0, answer.stderr
    (report,) = json.loads(answer.stdout)
    for source in report["sources"]:
        source["sets"] = {
            found["name"]: {**found, "rules": {rule["rule"]: rule for rule in found["rules"]}}
            for found in source["sets"]
        }
    return {**report, "sources": {source["source"]: source for source in report["sources"]}}


def test_rows_that_never_come_before_the_rules_are_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path, cleaning={"minimum_characters": 10})
    with (tmp_path / "notes.jsonl").open("a") as file:
        file.write(json.dumps({"text": SOURCES["notes"][0]}) + "\nno JSON\n")
    sources = filtered(run)["sources"]
    assert sources["papers"]["set_aside"] == {"too_short": 1} and sources["papers"]["documents"] == 9
    assert sources["notes"]["set_aside"] == {"broken_json": 1, "duplicate": 1} and sources["notes"]["documents"] == 3
    shown = acclimate("data", "filter", str(run.config))
    assert "set aside before any rule: 1 broken_json, 1 duplicate" in " ".join(shown.stdout.split())


def test_presets_are_compared_where_nothing_gates(tmp_path: Path) -> None:
    report = filtered(write_run(tmp_path))
    assert (report["stage"], report["complete"], report["tokens_by"]) == ("texts", True, "characters / 4")
    papers = report["sources"]["papers"]
    assert list(papers["sets"]) == ["gopher", "c4", "fineweb"]
    assert papers["documents"] == 10 and papers["without_spaces"] == 1
    assert (papers["languages"]["en"], papers["languages"]["zh"]) == (0.8, 0.1)  # of two words nobody knows
    assert papers["tokens"] == sum(-(-len(text) // 4) for text in SOURCES["papers"])
    brace = papers["sets"]["c4"]["rules"]["max_brace_lines"]
    assert (brace["dropped"], brace["share"], brace["only"], brace["judged"]) == (1, 0.1, 0, 9)
    assert brace["tokens"] == -(-len(CODE) // 4)
    assert [sample["uri"].rpartition("/")[2] for sample in brace["samples"]] == ["papers.jsonl#7"]
    assert brace["samples"][0]["excerpt"] == CODE and brace["samples"][0]["value"] == 1
    # C4 wants five sentences of everybody it can judge: the Chinese text stays.
    sentences = papers["sets"]["c4"]["rules"]["min_sentences"]
    assert (sentences["dropped"], sentences["only"]) == (9, 8)
    assert sentences["percentiles"]["p50"] == 2 and len(sentences["samples"]) == 3
    assert papers["sets"]["c4"]["dropped"] == 9


def test_the_rules_of_a_source_stand_before_those_of_the_stage(tmp_path: Path) -> None:
    run = write_run(tmp_path, quality={"min_words": 5, "languages": ["en"]}, notes={"quality": {"max_words": 1}})
    report = filtered(run)
    papers, notes = (report["sources"][name]["sets"]["config"] for name in ("papers", "notes"))
    assert papers["rules"].keys() == {"min_words", "min_language_confidence"} and notes["rules"].keys() == {"max_words"}
    few, language = papers["rules"]["min_words"], papers["rules"]["min_language_confidence"]
    assert few["dropped"] == 1 and few["samples"][0]["value"] == 2
    assert [sample["uri"].rpartition("#")[2] for sample in language["samples"]][-1] == "9"
    assert papers["token_share"] == papers["tokens"] / report["sources"]["papers"]["tokens"]
    assert notes["dropped"] == 3 and notes["share"] == notes["token_share"] == 1
    assert run.store.names("runs") == [] and run.store.names("artifacts") == []


def test_a_limit_reads_the_first_rows_of_every_source(tmp_path: Path) -> None:
    report = filtered(write_run(tmp_path), "--limit", "2")
    assert not report["complete"] and [source["documents"] for source in report["sources"].values()] == [2, 2]


def test_people_see_thresholds_samples_and_what_is_not_judged(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    answer = acclimate("data", "filter", str(run.config), "stages.texts.quality.min_words=5")
    assert answer.code == 0, answer.stderr
    said = " ".join(answer.stdout.split())
    for words in (
        "texts · papers", "all 10 documents", "characters / 4", "1 documents are in scripts without spaces", "quality of the config",
        "preset fineweb", "config: min_words 5 2 papers.jsonl#8 Too few.", "only it",
    ):  # fmt: skip
        assert words in said, answer.stdout
    assert "\x1b[31m" not in answer.stdout and "[31mred[/red]" in answer.stdout
    assert "No rule gates here" in acclimate("data", "filter", str(run.config)).stdout


def test_the_tokenizer_of_the_model_counts_where_there_is_one(tmp_path: Path, tiny_model: Path) -> None:
    run = write_run(tmp_path)
    values = yaml.safe_load(run.config.read_text())
    values["stages"]["base"] = {"stage": "model", "source": str(tiny_model)}
    values["stages"]["rows"] = {"stage": "shards", "corpus": "texts", "model": "base", "rows": "text"}
    run.config.write_text(yaml.safe_dump(values, sort_keys=False))
    report = filtered(run)
    assert report["tokens_by"] == "tokenizer of base"
    tokenizer = load_tokenizer(Store(str(tiny_model)))
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in SOURCES["notes"]]
    assert report["sources"]["notes"]["tokens"] == sum(lengths)


def test_a_stage_that_is_none_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    require_refused(acclimate("data", "filter", str(run.config), "--stage", "cpt"), 2, "--stage cpt", "texts")
    require_refused(
        acclimate("data", "filter", str(run.config), "stages.texts.quality.min_word=5"), 2, "did you mean `min_words`"
    )


def scored(place: int, words: float, sentences: float) -> ScoredDocument:
    scores = {"words": words, "sentences": sentences, "unspaced_characters": 0.0}
    return ScoredDocument(f"a#{place}", "text", scores, {"en": 1.0}, tokens=10)


def test_what_a_rule_drops_alone_is_told_from_what_others_drop_too() -> None:
    documents = [scored(1, 1, 9), scored(2, 2, 9), scored(3, 3, 1), scored(4, 9, 1), scored(5, 9, 9)]
    own = source_report("s", documents, Quality(min_words=4, min_sentences=2), {}).sets[0]
    words, sentences = own.rules
    assert (own.dropped, own.share, own.tokens, own.token_share) == (4, 0.8, 40, 0.8)
    assert (words.dropped, words.only, words.tokens) == (3, 2, 30)
    assert (sentences.dropped, sentences.only) == (2, 1)
    assert [sample.uri for sample in words.samples] == ["a#3", "a#2", "a#1"]  # from the threshold on
    assert words.percentiles == {"p5": pytest.approx(1.2), "p50": 3.0, "p95": 9.0}


def test_a_source_without_documents_is_shown_as_such() -> None:
    report = source_report("s", [], Quality(min_words=4), {})
    assert report.documents == 0 and report.languages == {} and report.sets[0].rules[0].percentiles == {}


def test_an_excerpt_is_one_harmless_line() -> None:
    assert excerpt("a\n\tb \x1b[0m\x07") == "a b �[0m�"
    assert len(excerpt("word " * 100)) == 100 and excerpt("word " * 100).endswith("…")
