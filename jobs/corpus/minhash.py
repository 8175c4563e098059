"""MinHash signatures and the bands by which near-duplicates meet (Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.4).

texts --5-grams of words--> signatures (texts, 112) uint32 --16 bands of 7--> keys (texts, 16) int64: equal keys meet
two signatures --share of equal places--> estimate of the Jaccard similarity of the 5-grams

Two texts of similarity s meet with probability 1 - (1 - s**7)**16: 0.12 at 0.5, 0.74 at 0.7, 0.98 at 0.8, 1.00 at 0.9. Who
meets is compared by all 112 places, so that meeting by chance costs nothing.
"""

# pyright: reportAttributeAccessIssue=false

import numpy as np
import pyarrow as pa
import rensa  # a compiled module without types

from jobs.corpus.ngrams import FOLD, mixed, ngrams

WORDS = 5
"""As FineWeb and most others: a sentence changed by one word keeps most of its 5-grams, two sentences of one topic share few."""
HASHES, BANDS, ROWS = 112, 16, 7
"""112 as FineWeb's 14 x 8; with 16 x 7 twice as many of similarity 0.7 meet (0.74 to 0.57)."""
SEED = 1
ALGORITHM = f"rensa-{rensa.RMinHash.ALGORITHM_VERSION}/{WORDS}-grams/{HASHES}/seed-{SEED}/nfkc"
"""Signatures of different algorithms must not be compared: both rensa and datasketch have changed theirs."""


def signatures(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(texts, HASHES) uint32. Texts without words get one that is equal among them."""
    found = ngrams(texts, WORDS)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        found.hashes, found.offsets.astype(np.uint64), HASHES, SEED
    )
    return np.asarray(matrix.to_rows(), dtype=np.uint32).reshape(len(texts), HASHES)


def band_keys(signatures_NH: np.ndarray) -> np.ndarray:
    """(N, BANDS) int64: a hash of the band's number and its ROWS places."""
    bands = signatures_NH.reshape(-1, BANDS, ROWS).astype(np.uint64)
    keys = np.broadcast_to(np.arange(BANDS, dtype=np.uint64), bands.shape[:2]).copy()
    for row in range(ROWS):
        keys = mixed(keys * FOLD + bands[:, :, row])
    return keys.view(np.int64)


def similarity(left_NH: np.ndarray, right_NH: np.ndarray) -> np.ndarray:
    """(N,) estimated Jaccard similarity; its standard deviation is at most 0.047, 0.038 at 0.8."""
    return (left_NH == right_NH).mean(axis=1)
