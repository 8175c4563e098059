import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema.corpus import Cleaning
from jobs.corpus.clean import clean_document, clean_text
from jobs.corpus.raw import Raw, RowError


def test_clean_repairs_unicode_and_whitespace():
    assert clean_text("  Gro\u0308ße \t x\r\n \u2028\n\n\ny\x0c ", Cleaning()) == "Größe x\n\ny"
    assert clean_text("a  b\r\n", Cleaning(unicode="none", collapse_whitespace=False)) == "a  b\r\n"


@given(st.text(alphabet=st.sampled_from("a b\n\r\t\u2028\x85\u00a0\u0308o\x0c"), max_size=30))
def test_cleaning_twice_is_cleaning_once(text: str):
    once = clean_text(text, Cleaning())
    assert clean_text(once, Cleaning()) == once


def test_short_documents_and_empty_messages_are_refused():
    with pytest.raises(RowError) as short:
        clean_document(Raw("u", "x" * 199 + " ", None), Cleaning())
    assert short.value.reason == "too_short"
    with pytest.raises(RowError) as empty:
        clean_document(Raw("u", "long enough", [{"role": "user", "content": " "}]), Cleaning(minimum_characters=5))
    assert empty.value.reason == "empty_message"
