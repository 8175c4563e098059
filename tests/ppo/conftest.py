"""One rank in the test's own process."""

from tests.train.conftest import one_rank

__all__ = ["one_rank"]
