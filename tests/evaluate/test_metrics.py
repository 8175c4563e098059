"""Perplexity, bits per byte and their errors, against numbers worked out by hand and against NumPy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.evaluate.metrics import DocumentScore, compare, summarise

TWO = [
    DocumentScore(1, nats=math.log(4) * 3, tokens=3, bytes=12),
    DocumentScore(2, nats=math.log(2) * 1, tokens=1, bytes=2),
]
"""Four tokens of 2, 2, 2 and 1 bits in 14 bytes."""

scores = st.lists(
    st.builds(
        DocumentScore,
        document_id=st.integers(),
        nats=st.floats(0.1, 1e3),
        tokens=st.integers(1, 500),
        bytes=st.integers(1, 4000),
    ),
    min_size=2,
    max_size=20,
    unique_by=lambda score: score.document_id,
)


def test_two_documents_by_hand():
    score = summarise(TWO)
    assert score.loss == pytest.approx(7 / 4 * math.log(2))
    assert score.perplexity == pytest.approx(2 ** (7 / 4))
    assert score.bits_per_byte == pytest.approx(7 / 14)
    assert (score.tokens, score.bytes, score.documents) == (4, 14, 2)
    # Residuals in bits: 6 - 7/4 * 3 = 3/4 and 1 - 7/4 = -3/4; sqrt(2/1 * 2 * (3/4)^2) / 4 = 3/8.
    assert score.loss_standard_error == pytest.approx(3 / 8 * math.log(2))


def test_one_document_has_no_standard_error():
    assert summarise(TWO[:1]).loss_standard_error is None


@given(scores)
def test_documents_of_equal_length_have_the_usual_standard_error(drawn: list[DocumentScore]):
    equal = [DocumentScore(score.document_id, score.nats, 10, 40) for score in drawn]
    losses = np.array([score.nats / 10 for score in equal])
    expected = losses.std(ddof=1) / math.sqrt(len(losses))
    assert summarise(equal).loss_standard_error == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(scores, st.floats(0.5, 2))
def test_a_change_that_is_the_same_everywhere_is_certain(drawn: list[DocumentScore], shift: float):
    """Every token costs `shift` nats more: the documents differ, their differences do not."""
    after = [DocumentScore(s.document_id, s.nats + shift * s.tokens, s.tokens, s.bytes) for s in drawn]
    change = compare(drawn, after)
    assert change.perplexity == pytest.approx(math.exp(shift) - 1)
    assert change.loss_difference_standard_error == pytest.approx(0, abs=1e-6)


def test_other_documents_are_not_compared():
    with pytest.raises(AssertionError):
        compare(TWO, TWO[::-1])
