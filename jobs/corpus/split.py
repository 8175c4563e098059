"""Train or held-out, decided by a document's content."""

import hashlib


def is_heldout(sha256: str, heldout_fraction: float, split_seed: int) -> bool:
    """True for about `heldout_fraction` of all contents.

    The threshold is compared with a hash of seed and content, so that a document stays on its side when others come or
    go, and a larger fraction only adds to the held-out side.
    """
    digest = hashlib.sha256(f"{split_seed}:{sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < heldout_fraction * 2**64
