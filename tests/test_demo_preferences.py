"""Constructed preferences: hand-made papers, and what is promised of files made of them."""

import gzip
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from configs.schema.corpus import Cleaning
from jobs.corpus.candidates import candidate
from jobs.corpus.clean import clean_document
from jobs.corpus.formats import convert_row, recognise
from jobs.corpus.refine import Refined
from jobs.corpus.split import is_heldout
from jobs.demo_preferences import (
    INSTRUCTION,
    LENGTHS,
    Paper,
    construct_pairs,
    copied_passage,
    similar_papers,
    write_preferences,
)


def paper(pmid: str, title: str = "Stroke", tokens: int = 30, side: float = 0.05, copied: str | None = None) -> Paper:
    return Paper(pmid, title, "RESULTS: Seen.", f"Conclusion of {pmid}.", tokens, side, copied)


def test_the_run_of_sentences_nearest_in_length_is_copied():
    sentences, tokens = ["A.", "B.", "C.", "D."], [6, 5, 4, 30]
    # Around 10 tokens: "A. B." has 11, "B. C." has 9.
    assert copied_passage(sentences, tokens, 10, longer=True) == "A. B."
    assert copied_passage(sentences, tokens, 10, longer=False) == "B. C."
    assert copied_passage(sentences, tokens, 30, longer=False) == "D."
    assert copied_passage(sentences, tokens, 20, longer=True) is None  # 15 % of 20 is 3, and the nearest run has 15


def test_papers_meet_by_the_rarest_words_of_their_titles():
    papers = [
        paper("1", "Aspirin after surgery"),
        paper("2", "Sleep after surgery"),  # shares two words with 1, but common ones
        paper("3", "Aspirin before lunch"),
        paper("4", "Naps after surgery"),
        paper("5", "Warfarin after surgery", tokens=40),  # a third longer than any other: it stays alone
        paper("6", "Gout"),
    ]
    assert [(first.pmid, second.pmid) for first, second in similar_papers(papers)] == [("1", "3"), ("2", "4")]


def test_papers_lend_conclusions_within_a_tenth_only_and_each_once():
    papers = [paper(str(number), side=number / 40) for number in range(40)]
    pairs = construct_pairs(papers)
    owner = {other.conclusion: other for other in papers}
    assert len({pair.paper.pmid for pair in pairs}) == len(pairs) == 40
    for pair in pairs:
        lender = owner[pair.rejected]
        assert pair.fails_by == "other_paper" and lender.pmid != pair.paper.pmid
        assert int(lender.side * 10) == int(pair.paper.side * 10)
    assert sorted(pair.rejected for pair in pairs) == sorted(other.conclusion for other in papers)


def test_every_second_paper_that_can_is_answered_by_a_copy():
    papers = [paper(str(number), copied="Seen.") for number in range(8)]
    assert [pair.fails_by for pair in construct_pairs(papers)] == ["copied", "other_paper"] * 4


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Files made of 60 papers whose results repeat their conclusion's length in two sentences, words being tokens."""
    half = LENGTHS.start // 2
    articles = []
    for number in range(60):
        sentence = " ".join(["Found", *[f"r{number}"] * (half - 2), "so."])
        conclusion = " ".join(["Iron", *[f"c{number}"] * (LENGTHS.start - 1)])
        sections = f"""<AbstractText Label="METHODS">We looked.</AbstractText>
            <AbstractText Label="MAIN RESULTS">{sentence} {sentence}</AbstractText>
            <AbstractText Label="CONCLUSIONS" NlmCategory="CONCLUSIONS">{conclusion}</AbstractText>"""
        articles.append(
            f"<PubmedArticle><MedlineCitation><PMID>{number}</PMID><Article><ArticleTitle>Iron\u0301, case {number}</ArticleTitle>"
            f"<Abstract>{sections}</Abstract><Language>eng</Language></Article></MedlineCitation></PubmedArticle>"
        )
    pubmed, tokenizer = tmp_path / "pubmed.xml.gz", tmp_path / "tokenizer.json"
    pubmed.write_bytes(gzip.compress(f"<PubmedArticleSet>{''.join(articles)}</PubmedArticleSet>".encode()))
    words = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = WhitespaceSplit()
    words.save(str(tokenizer))
    for into in ("once", "again"):
        write_preferences(pubmed, tokenizer, tmp_path / into)
    return tmp_path


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_files_are_the_same_each_time_and_read_as_pairs_and_thumbs(written: Path):
    for name, row_format in (("conclusion_pairs.jsonl", "preferences"), ("conclusion_thumbs.jsonl", "thumbs")):
        assert (written / "once" / name).read_bytes() == (written / "again" / name).read_bytes()
        rows = rows_of(written / "once" / name)
        assert {recognise(row) for row in rows} == {row_format}
        assert len({row["pmid"] for row in rows}) == len(rows) > 40


def test_a_copy_is_of_the_prompt_and_no_answer_is_told_by_its_length(written: Path):
    rows = rows_of(written / "once" / "conclusion_pairs.jsonl")
    assert rows[0]["prompt"][1] == {"role": "user", "content": INSTRUCTION}
    for row in rows:
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert (rejected in row["prompt"][0]["content"]) == (row["fails_by"] == "copied")
        assert len(chosen.split()) == len(rejected.split()) == LENGTHS.start
        assert "We looked" not in row["prompt"][0]["content"]
    thumbs = [row["label"] for row in rows_of(written / "once" / "conclusion_thumbs.jsonl")]
    assert abs(2 * sum(thumbs) - len(thumbs)) <= 1


@pytest.mark.parametrize("heldout_fraction", [0.1, 0.5])
def test_no_conclusion_is_on_both_sides_of_the_split(written: Path, heldout_fraction: float):
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    for row in rows_of(written / "once" / "conclusion_pairs.jsonl"):
        document = clean_document(convert_row("", row, "preferences"), Cleaning(minimum_characters=1))
        side = is_heldout(candidate(Refined(document, {}), 1)["split_by"], heldout_fraction, 0)
        assert document.judgement is not None
        sides[side] |= {answer[0]["content"] for answer in document.judgement.answers}
    assert sides[True] and sides[False] and not sides[True] & sides[False]
