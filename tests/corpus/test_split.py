from jobs.corpus.schema import text_sha256
from jobs.corpus.split import is_heldout


def test_the_split_keeps_its_share_and_only_grows():
    hashes = [text_sha256(str(n)) for n in range(20_000)]
    held_2 = {sha256 for sha256 in hashes if is_heldout(sha256, 0.02, 0)}
    held_5 = {sha256 for sha256 in hashes if is_heldout(sha256, 0.05, 0)}
    other_seed = {sha256 for sha256 in hashes if is_heldout(sha256, 0.02, 1)}
    # 400 expected; four standard deviations of a binomial are 79.
    assert 321 <= len(held_2) <= 479
    assert held_2 < held_5
    assert len(held_2 & other_seed) < 40
    assert not any(is_heldout(sha256, 0.0, 0) for sha256 in hashes)
    assert all(is_heldout(sha256, 1.0, 0) for sha256 in hashes)
