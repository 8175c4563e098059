"""The slow tiers of personal data: Presidio's recognisers, and names by a spaCy pipeline."""

import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.schema.pii import KINDS_OF_TIER, Pii
from jobs.corpus import pii
from jobs.corpus.canaries import measured_precision, measured_recall, require_recall
from jobs.corpus.pii import PII_SALT, check_finders, redact
from tests.corpus.test_pii import LEFT_ALONE

SALT = b"sixteen bytes or"
TIER_1 = Pii(tier="patterns")

PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQ+/=\nDEK-Info: x\n-----END PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1g"


def test_presidio_adds_numbers_with_check_digits_and_phones_without_a_word():
    pytest.importorskip("presidio_analyzer")
    tier_2 = Pii(tier="presidio")
    text = "NHS 943 476 5919, NINO AA 12 34 56 B, RSSMRA85T10A562S (020 7946 0018), 943 476 5918; EC 3.4.21.4, 1685 students, NCT02760001, 77.94/100000, rs261083 C, 10.2174/15680266206"
    assert redact([text], tier_2, SALT)[0].text == (
        "NHS [UK_NHS], NINO [UK_NINO], [IT_FISCAL_CODE] ([PHONE]), [PHONE]; EC 3.4.21.4, 1685 students, NCT02760001, 77.94/100000, rs261083 C, 10.2174/15680266206"
    )
    assert measured_recall(tier_2, SALT, 0) == dict.fromkeys(KINDS_OF_TIER["presidio"], 1.0)
    assert measured_precision(tier_2, SALT, 0) == dict.fromkeys(KINDS_OF_TIER["presidio"], 1.0)
    once = redact([text], tier_2, SALT)[0].text
    assert redact([once], tier_2, SALT) == [pii.Redacted(once)]
    for untouched, result in zip(LEFT_ALONE, redact(LEFT_ALONE, tier_2, SALT), strict=True):
        # Presidio knows the last two for numbers that are given out in the US and the UK.
        assert result.text == untouched.replace("020 7946 0018", "[PHONE]").replace("212-555.0123", "[PHONE]")


def test_a_missing_presidio_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(UserError, match=r"presidio-analyzer.*not installed.*pip install 'acclimate\[pii\]'"):
        redact(["x"], Pii(tier="presidio"), SALT)
    with pytest.raises(UserError, match="not installed"):
        check_finders(Pii(tier="presidio"))
    check_finders(Pii())
    assert redact(["ada@example.com"], Pii(tier="presidio", kinds=["email"]), SALT)[0].text == "[EMAIL]"


def test_a_salt_that_can_be_guessed_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PII_SALT, "short")
    with pytest.raises(UserError, match="ACCLIMATE_PII_SALT has 5 characters; give it 16 or more"):
        check_finders(Pii(tier="patterns"))


@pytest.fixture
def names(tmp_path: Path) -> str:
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([
        {"label": "PERSON", "pattern": "Ada Lovelace"}, {"label": "PERSON", "pattern": "EMAIL"},
        {"label": "GPE", "pattern": "London"}, {"label": "DATE", "pattern": "1843"},
    ])  # fmt: skip
    pipeline.to_disk(tmp_path / "names")
    return str(tmp_path / "names")


def test_ner_replaces_names_by_the_pipeline_that_is_named(names: str):
    tier_3 = Pii(tier="ner", ner_pipeline=names)
    text = "In London, 1843,\nAda Lovelace (ada@example.com) wrote."
    (result,) = redact([text], tier_3, SALT)
    assert result.text == "In [LOCATION], 1843,\n[PERSON] ([EMAIL]) wrote."
    assert [(finding.kind, finding.start) for finding in result.findings] == [
        ("location", 3),
        ("person", 21),
        ("email", 31),
    ]
    assert redact([result.text], tier_3, SALT) == [pii.Redacted(result.text)]
    only = Pii(tier="ner", ner_pipeline=names, kinds=["person"])
    assert redact([text], only, SALT)[0].text == text.replace("Ada Lovelace", "[PERSON]")
    with pytest.raises(UserError, match="too few were found: person"):
        require_recall(only, SALT, 0)


def test_a_missing_or_useless_pipeline_is_refused(names: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"ner_pipeline: no_such_pipeline is neither a directory"):
        redact(["x"], Pii(tier="ner", ner_pipeline="no_such_pipeline", kinds=["person"]), SALT)
    with pytest.raises(UserError, match="finds DATE, GPE, PERSON, and none of it"):
        redact(["x"], Pii(tier="ner", ner_pipeline=names, kinds=["organization"]), SALT)
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match="needs spaCy"):
        redact(["x"], Pii(tier="ner", ner_pipeline=names, kinds=["person"]), SALT)


def test_tier_patterns_needs_neither_presidio_nor_spacy():
    code = "import sys, jobs.corpus.canaries; assert not {'presidio_analyzer', 'spacy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
