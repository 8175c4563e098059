"""Small inputs that tests of the corpus share: files in every format, with what is wrong in each written beside it."""

import gzip
import json
from pathlib import Path

PUBMED = """<?xml version="1.0"?>
<PubmedArticleSet>
  <PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>Iron in <i>E. coli</i>.</ArticleTitle>
    <Abstract>
      <AbstractText Label="BACKGROUND" NlmCategory="BACKGROUND">Cells need iron.</AbstractText>
      <AbstractText Label="METHODS" NlmCategory="METHODS">We counted Fe<sup>2+</sup>.</AbstractText>
      <AbstractText Label="CONCLUSIONS" NlmCategory="CONCLUSIONS">Iron is needed.</AbstractText>
    </Abstract><Language>eng</Language></Article></MedlineCitation></PubmedArticle>
  <PubmedArticle><MedlineCitation><PMID>2</PMID><Article><ArticleTitle>Plain.</ArticleTitle>
    <Abstract><AbstractText>One paragraph.</AbstractText></Abstract><Language>eng</Language></Article>
    </MedlineCitation></PubmedArticle>
  <PubmedArticle><MedlineCitation><PMID>3</PMID><Article><ArticleTitle>Deutsch.</ArticleTitle>
    <Abstract><AbstractText>Ein Absatz.</AbstractText></Abstract><Language>ger</Language></Article>
    </MedlineCitation></PubmedArticle>
  <PubmedArticle><MedlineCitation><PMID>4</PMID><Article><ArticleTitle>Wrong.</ArticleTitle>
    <Abstract><AbstractText>Taken back.</AbstractText></Abstract><Language>eng</Language>
    <PublicationTypeList><PublicationType>Retracted Publication</PublicationType></PublicationTypeList></Article>
    </MedlineCitation></PubmedArticle>
  <PubmedArticle><MedlineCitation><PMID>5</PMID><Article><ArticleTitle>No abstract.</ArticleTitle>
    <Language>eng</Language></Article></MedlineCitation></PubmedArticle>
  <PubmedArticle><MedlineCitation><PMID>2</PMID><Article><ArticleTitle>Plain, again.</ArticleTitle>
    <Abstract><AbstractText>Second version.</AbstractText></Abstract><Language>eng</Language></Article>
    </MedlineCitation></PubmedArticle>
</PubmedArticleSet>
"""


def write_pubmed(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(PUBMED.encode(), mtime=0))
    return path


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def conversation_rows(count: int) -> list[object]:
    """Dolly-like rows with answers of different lengths."""
    return [
        {
            "instruction": f"Count to {n}.",
            "context": f"Use words, case {n}.",
            "response": " and ".join(["one"] * (n % 9 + 1)),
        }
        for n in range(count)
    ]


def text_rows(count: int) -> list[object]:
    return [{"text": f"Document {n}: " + "iron and oxygen in cells. " * (n % 13 + 1)} for n in range(count)]
