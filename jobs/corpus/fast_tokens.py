"""Ids of many texts: by gigatoken where it gives the very ids of the model's own tokenizer, else by that one.

    own tokenizer --as JSON, without its special tokens--> gigatoken --hard strings by both--> the same? or a Refusal
    texts --gigatoken--> ids, one array a text --some texts of every batch by both--> the same? or a Refusal

gigatoken counts about twenty million tokens a second on one core, tokenizers half a million. Whoever gets a Refusal does all of
its texts with the own tokenizer, so that the ids, and with them the bytes of a shard, never depend on which of the two it was.
"""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import TokenizersBackend

GIGATOKEN = "gigatoken"
OWN = "tokenizers"

CHARACTERS_PER_CALL = 1 << 20
"""The own tokenizer's result takes some 400 bytes a character while it is held: books must not come by the hundred."""
TEXTS_PER_CALL = 512
FIRST_COMPARED, COMPARED = 32, 2
"""Texts of the first and of every other batch that both tokenizers get. Documents come in the order of a hash of their text, so
the first ones are as good as drawn. Two of 512 abstracts cost a sixth of what gigatoken takes for all."""
COMPARED_CHARACTERS = 4_000
"""Most of one text."""
CHARACTERS_PER_LOAD = 128 << 20
"""gigatoken remembers every word it has seen, in about 100 bytes: so much text of people's has a million different ones. It is
then loaded anew, in a tenth of a second."""

WORDS_REMEMBERED = 1 << 18
"""By the own tokenizer, in about 200 bytes each; at first it remembers 10,000, and abstracts have more: a fifth faster."""

HARD = (
    "", " ", "  ", "\n", "\t", "\r\n", " \n \n", " leading", "trailing ", "two  spaces and   three", "a\r\nb\rc\n\nd",
    "\x00\x04\x1b", "x" * 5000, "ab" * 1000 + " " * 300 + "\n" * 300, "Don't you'LL we\u2019ve I'M",
    "0 12 123 1234 12345 3.14159 1,000,000 ½ ² ٣ Ⅷ", "naïve café Straße ﬁne ①", "e\u0301 e\u0308\u0323 \u1e69 \ufb01 \u212b",
    "😀 👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 🇩🇪 ❤️", "\ufeff\u200b\u00a0\u2028\u3000x\u00ad",
    "\ud7ff\ue000\ufffd\uffff\U0001f9ff\U0010ffff",
    "细胞很小。日本語テキスト 한국어 ภาษาไทย हिन्दी العربية עברית", "def f(x):\n\treturn {'a': x[0]**2}  # ≤\n",
    "$E=mc^2$ \\alpha <b>&amp;</b> https://a.b/c?d=e#f", "<s></s><unk>[CLS]<0x0A>▁_ĠÄ",
)  # fmt: skip
"""What tokenizers are known to differ in: spaces, line ends, digits, contractions, normal forms, joined emoji, scripts without
spaces, control characters, what looks like a token."""
EVERY = 61
"""One code point in so many, from all blocks of Unicode: which are letters differs by version."""
LAST_LETTER = 0x323B0

Encode = Callable[[Sequence[str]], list[NDArray[np.int32]]]
"""Ids of each text, with what the model's tokenizer puts before and behind it."""


class Refusal(Exception):
    """gigatoken cannot stand in for a tokenizer: the reason, without a word of a text from the corpus."""


def batches_of(texts: pa.ChunkedArray) -> Iterable[list[str]]:
    """Texts as strings, as many as one call should get. An only text may be longer."""
    batch: list[str] = []
    characters = 0
    for chunk in texts.chunks:
        for start in range(0, len(chunk), TEXTS_PER_CALL):
            for text in chunk.slice(start, TEXTS_PER_CALL).to_pylist():
                if batch and (len(batch) == TEXTS_PER_CALL or characters + len(text) > CHARACTERS_PER_CALL):
                    yield batch
                    batch, characters = [], 0
                batch.append(text)
                characters += len(text)
    if batch:
        yield batch


def own_encoder(tokenizer: PreTrainedTokenizerBase) -> Encode:
    """The model's own tokenizer. Special tokens spelt in a text are ordinary text."""
    kind = type(tokenizer)
    if kind.__call__ is TokenizersBackend.__call__ and kind._encode_plus is TokenizersBackend._encode_plus:
        # What transformers calls as well, without places in the text, which nobody asks for: a sixth faster.
        backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
        if hasattr(backend.model, "_resize_cache"):
            backend.model._resize_cache(WORDS_REMEMBERED)

        def encode_by_backend(texts: Sequence[str]) -> list[NDArray[np.int32]]:
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = True  # transformers sets it anew in every call of its own
            return [np.asarray(encoding.ids, dtype=np.int32) for encoding in backend.encode_batch_fast(list(texts))]

        return encode_by_backend

    def encode(texts: Sequence[str]) -> list[NDArray[np.int32]]:
        encoded: Any = tokenizer(list(texts), split_special_tokens=True, return_attention_mask=False)
        return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]

    return encode


@dataclass
class FastEncoder:
    """gigatoken in the place of a tokenizer; the words it has seen are its state."""

    description: str
    """tokenizer.json as gigatoken is to read it."""
    limit: int
    """Ids from here on stand for bytes that the own tokenizer has no token for: it gets such texts itself."""
    before: NDArray[np.int32]
    behind: NDArray[np.int32]
    own: Encode
    _gigatoken: Any = field(default=None, repr=False)
    _characters: int = 0

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Raises Refusal."""
        rows = [self._wrapped(self._encode(text)) for text in texts]
        unknown = [place for place, row in enumerate(rows) if row.max(initial=0) >= self.limit]
        if unknown:
            for place, row in zip(unknown, self.own([texts[place] for place in unknown]), strict=True):
                rows[place] = row
        return rows

    def compare(self, texts: Sequence[str], what: str) -> None:
        """Raises Refusal where the own tokenizer gives other ids for one of the texts."""
        for text, mine, theirs in zip(texts, self.encode(texts), self.own(texts), strict=True):
            if not np.array_equal(mine, theirs):
                raise Refusal(f"gigatoken gives other tokens for {what.format(text=text[:60])}")

    def _encode(self, text: str) -> NDArray[np.int32]:
        self._characters += len(text)
        if self._gigatoken is None or self._characters > CHARACTERS_PER_LOAD:
            self._gigatoken, self._characters = _load(self.description), len(text)
        # One text a call: no Python list of ids, no awkward array, and no threads beside those of the other tasks.
        return self._gigatoken.encode(text).astype(np.int32)

    def _wrapped(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        if not (len(self.before) or len(self.behind)):
            return ids
        return np.concatenate([self.before, ids, self.behind])


def fast_encoder(tokenizer: PreTrainedTokenizerBase) -> FastEncoder:
    """gigatoken for this tokenizer, compared on HARD and on letters of all scripts. Raises Refusal."""
    found = _fast_encoder(tokenizer)
    if isinstance(found, str):
        raise Refusal(found)
    return found


@functools.lru_cache(maxsize=2)
def _fast_encoder(tokenizer: PreTrainedTokenizerBase) -> FastEncoder | str:
    """Made and compared once in a process, as the tokenizer itself; or why there is none."""
    try:
        fast = _make(tokenizer)
        fast.compare([*HARD, *_letters()], "{text!r}")
        known: Any = tokenizer
        spelt = sorted(known.get_added_vocab())
        fast.compare([*spelt, *(f"a{token} {token}b\n{token}" for token in spelt)], "{text!r}")
    except Refusal as refusal:
        return str(refusal)
    return fast


def encode_all(texts: pa.ChunkedArray, fast: FastEncoder) -> Iterable[list[NDArray[np.int32]]]:
    """Ids of every batch of batches_of. Raises Refusal, also in the middle: what was given before is then to be thrown away."""
    count = FIRST_COMPARED
    for batch in batches_of(texts):
        fast.compare([text[:COMPARED_CHARACTERS] for text in batch[:count]], "a text of the corpus")
        yield fast.encode(batch)
        count = COMPARED


def _make(tokenizer: PreTrainedTokenizerBase) -> FastEncoder:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        raise Refusal(f"{type(tokenizer).__name__} is not made of a tokenizer.json")
    description = json.loads(backend.to_str())
    added = description["added_tokens"]
    special = [token["content"] for token in added if token["special"]]
    ordinary = [token["content"] for token in added if not token["special"]]
    if _overlap(special, ordinary):
        raise Refusal("an added token overlaps with a special one, so that both must be looked for")
    # Special tokens spelt in a text are ordinary text, and what goes before and behind a text is added here.
    description |= {"added_tokens": [token for token in added if not token["special"]], "post_processor": None}
    limit = 1 + max([*backend.get_vocab(with_added_tokens=True).values(), *(token["id"] for token in added)])
    _add_missing_bytes(description, limit)
    own = own_encoder(tokenizer)
    before, behind = _around(tokenizer, own)
    fast = FastEncoder(json.dumps(description), limit, before, behind, own)
    fast.encode(["a"])  # loads it
    return fast


def _load(description: str) -> Any:
    """gigatoken's tokenizer. Raises Refusal where it is not installed or does not know a part of this one."""
    try:
        from gigatoken.gigatoken_rs import load_hf_json
    except ImportError as error:
        raise Refusal(f"gigatoken cannot be imported here: {error}") from error
    try:
        return load_hf_json(description)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise Refusal(f"gigatoken does not know this tokenizer: {str(error).strip().splitlines()[0]}") from error


def _overlap(special: Sequence[str], ordinary: Sequence[str]) -> bool:
    """Whether a text can hold one of each that share a character: the own tokenizer then finds the first or the longer one."""
    begins = {token[:end] for token in ordinary for end in range(1, len(token) + 1)}
    ends = {token[start:] for token in ordinary for start in range(len(token))}
    whole = set(ordinary)
    for token in special:
        places = range(len(token))
        if any(token[place:] in begins or token[: place + 1] in ends for place in places):
            return True
        if any(token[start : end + 1] in whole for start in places for end in places):
            return True
    return any(token in other for token in special for other in ordinary)


def _add_missing_bytes(description: dict[str, Any], limit: int) -> None:
    """gigatoken wants a token for each byte. Of those that SmolLM2 lacks, for one, it says so only by an id from `limit` on."""
    vocabulary = description["model"].get("vocab")
    if isinstance(vocabulary, dict) and '"ByteLevel"' in json.dumps(description["pre_tokenizer"]):
        missing = [letter for letter in sorted(ByteLevel.alphabet()) if letter not in vocabulary]
        vocabulary.update({letter: limit + number for number, letter in enumerate(missing)})


def _around(tokenizer: PreTrainedTokenizerBase, own: Encode) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What the own tokenizer puts before and behind a text, such as Llama's beginning of a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = own(["a"])[0].tolist()
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return np.array(whole[:start], np.int32), np.array(whole[start + len(bare) :], np.int32)
    raise Refusal("what the tokenizer puts around a text changes the text's own tokens")


def _letters() -> list[str]:
    """Code points of all of Unicode, each beside letters, digits and spaces."""
    points = [point for point in range(0x20, LAST_LETTER, EVERY) if not 0xD800 <= point < 0xE000]
    return ["".join(f"a{chr(point)}1{chr(point)} {chr(point)}b" for point in points[start::40]) for start in range(40)]
