"""Word n-grams of many texts at once, as hashes: what near-duplicates and contaminated documents are found by.

texts --lower case, punctuation out--> words --XXH3 of each distinct one--> n words folded into one hash, at every position

Everything but the hash of a distinct word is one pass of Arrow or NumPy over all texts together.
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

PUNCTUATION = r"[^\p{L}\p{M}\p{N}\s]+"
"""RE2. What people change when they copy a text: quotes, dashes, commas. A hyphen parts words."""
INVISIBLE = r"\p{Cf}+"
"""RE2. Soft hyphens, joiners: they part no words."""
WITHOUT_SPACES = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
"""RE2. Scripts that put no space between words: every character is a word."""

FOLD = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio, odd: a polynomial in it over the ring of 64-bit integers tells n-grams apart by order."""

_ASCII = np.array(
    [ord(chr(byte).lower()) if chr(byte).isalnum() or byte >= 128 else 0x20 for byte in range(128)], dtype=np.uint8
)
"""What the rules above make of a byte of ASCII."""


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of texts, one text after the other.

    Example, n = 2, two texts of three words and of one:
        Ngrams(hashes=array([81.., 19.., 5..], dtype=uint64), offsets=array([0, 2, 3]))
    """

    hashes: np.ndarray
    """(N,) uint64. A text of fewer than n words is one n-gram; one without words has none."""
    offsets: np.ndarray
    """(texts + 1,) int64: those of text i are hashes[offsets[i]:offsets[i + 1]]."""


def ngrams(texts: pa.Array | pa.ChunkedArray, n: int) -> Ngrams:
    """Of every text, in order and as often as they stand there.

    Args:
        texts: string or large_string without nulls.
    """
    words, starts = _words(texts)
    counts = np.diff(starts)
    per_text = np.where(counts >= n, counts - n + 1, (counts > 0).astype(np.int64))
    offsets = np.concatenate([[0], np.cumsum(per_text)])
    # Over the borders of texts too: n slices are ten times quicker than n gathers, and what is wrong is left out below.
    rolled = np.zeros(len(words), dtype=np.uint64)
    for place in range(n):
        rolled *= FOLD
        rolled[: max(0, len(words) - place)] += words[place:]
    begins = np.ones(len(words), dtype=bool)
    for back in range(1, min(n, len(words) + 1)):
        begins[starts[1:][counts >= back] - back] = False
    short = (counts > 0) & (counts < n)
    begins[starts[:-1][short]] = True
    for text in np.flatnonzero(short):
        rolled[starts[text]] = _folded(words[starts[text] : starts[text + 1]])
    return Ngrams(mixed(rolled[begins]), offsets)


def mixed(values: np.ndarray) -> np.ndarray:
    """uint64 with every bit depending on every bit (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _folded(words: np.ndarray) -> np.uint64:
    """A text of fewer than n words, told from the beginning of a longer one by its length."""
    folded = np.full(1, len(words), dtype=np.uint64)
    for word in words:
        folded = folded * FOLD + word
    return folded[0]


def _words(texts: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(hash of every word, where the words of each text start, and the end)."""
    if isinstance(texts, pa.ChunkedArray):
        texts = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], pa.large_string())
    split = pc.split_pattern(_plain(texts.cast(pa.large_string())), " ")
    starts = split.offsets.to_numpy().astype(np.int64)
    words = split.values.slice(starts[0], starts[-1] - starts[0]).dictionary_encode()
    starts -= starts[0]
    distinct = words.dictionary.to_pylist()
    known = np.array([xxhash.xxh3_64_intdigest(word.encode()) for word in distinct], dtype=np.uint64)
    places = words.indices.to_numpy()
    hashes = known[places] if len(known) else np.empty(0, dtype=np.uint64)
    if "" not in distinct:
        return hashes, starts
    keep = places != distinct.index("")
    return hashes[keep], np.concatenate([[0], np.cumsum(keep)])[starts]


def _plain(texts: pa.Array) -> pa.Array:
    """Words in lower case with spaces between them; the quick way gives what the other does, for ASCII alone."""
    if not pc.all(pc.string_is_ascii(texts)).as_py():
        return _plain_unicode(texts)
    if texts.nbytes == 0 or texts.buffers()[2] is None:
        return texts
    start, end = (texts.offset, texts.offset + len(texts))
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)[start : end + 1]
    data = np.frombuffer(texts.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
    return pa.LargeStringArray.from_buffers(
        len(texts), pa.py_buffer((offsets - offsets[0]).tobytes()), pa.py_buffer(_ASCII[data].tobytes())
    )


def _plain_unicode(texts: pa.Array) -> pa.Array:
    plain = pc.utf8_normalize(pc.replace_substring_regex(texts, INVISIBLE, ""), "NFKC")
    plain = pc.replace_substring_regex(pc.utf8_lower(plain), PUNCTUATION, " ")
    if pc.any(pc.match_substring_regex(plain, WITHOUT_SPACES)).as_py():
        plain = pc.replace_substring_regex(plain, WITHOUT_SPACES, r" \1 ")
    return pc.replace_substring_regex(plain, r"\s+", " ")
