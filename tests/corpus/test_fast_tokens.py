"""Shards by gigatoken are those of the model's own tokenizer, byte for byte; where they would not be, gigatoken is not used."""

import io
import itertools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cluster.storage import Store
from configs.schema.corpus import ShardsStage
from jobs.corpus import fast_tokens
from jobs.corpus.fast_tokens import HARD, FastEncoder, Refusal, batches_of, fast_encoder, own_encoder
from jobs.corpus.pack import pack
from jobs.corpus.pubmed import read_pubmed_file
from jobs.corpus.schema import document_id_of, text_sha256
from jobs.corpus.segments import read_tokenizer_files, text_segments, without_lone_tokens
from jobs.corpus.shards import partition_writer
from tests.world.tiny_model import SENTENCES

ASSETS = Path("artifacts/assets").absolute()
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = [*SENTENCES, *HARD, "<|endoftext|> is how a text ends, <s> how it begins.", "<think>aloud</think> and <thin"]


def trained(tokenizer: Tokenizer, trainer: Any, **named: str) -> PreTrainedTokenizerBase:
    tokenizer.train_from_iterator([*SENTENCES, *HARD], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def bpe_trainer(*special: str, alphabet: list[str] | None = None) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=900, special_tokens=[*special], initial_alphabet=alphabet or [], show_progress=False
    )


def like_llama_3() -> PreTrainedTokenizerBase:
    """A regular expression of its own, digits by three, a token before every text, and an added token that is no special one."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT4), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = bpe_trainer("<|begin|>", "<|endoftext|>", alphabet=pre_tokenizers.ByteLevel.alphabet())
    found = trained(tokenizer, trainer, bos_token="<|begin|>", eos_token="<|endoftext|>")
    found.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    found.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    return found


def like_llama_2() -> PreTrainedTokenizerBase:
    """SentencePiece: spaces are letters, and bytes without a letter have tokens of their own."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = bpe_trainer("<unk>", "<s>", "</s>", *bytes_)
    words = [f"▁{word}" for sentence in SENTENCES for word in sentence.split()]
    tokenizer.train_from_iterator(words, trainer)
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    found.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return found


def with_few_bytes() -> PreTrainedTokenizerBase:
    """Byte-level as SmolLM2: bytes that were in no text it was made from have no token and vanish."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(SENTENCES, bpe_trainer("<|endoftext|>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def with_compatible_forms() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = bpe_trainer("<|endoftext|>", alphabet=pre_tokenizers.ByteLevel.alphabet())
    return trained(tokenizer, trainer, eos_token="<|endoftext|>")


def like_bert() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    return trained(tokenizer, trainer, eos_token="[SEP]", unk_token="[UNK]")


def like_t5() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    return trained(tokenizer, trainer, eos_token="</s>", unk_token="<unk>")


def with_overlapping_tokens() -> PreTrainedTokenizerBase:
    """`<|endoftext|><think` holds a special token and an ordinary one that share its last character."""
    found = like_llama_3()
    found.add_tokens([AddedToken("|><", special=False, normalized=False)])
    return found


FAMILIES = {"llama 3": like_llama_3, "llama 2": like_llama_2, "few bytes": with_few_bytes}
REFUSED = {
    "NFKC": with_compatible_forms,
    "WordPiece": like_bert,
    "Unigram": like_t5,
    "overlaps": with_overlapping_tokens,
}


def documents_of(texts: list[str]) -> pa.Table:
    return pa.table({"text": texts, "document_id": list(range(len(texts)))})


def by_both(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Counter[str]:
    """Asserts that segments are equal; what the fast way was tokenised by."""
    documents = documents_of(texts)
    slow = text_segments(documents, tokenizer, 0, "off")
    fast = text_segments(documents, tokenizer, 0, "auto")
    assert fast.table.equals(slow.table)
    assert slow.tokenized_by == {"tokenizers": len(texts)}
    wanted: Any = tokenizer(texts, split_special_tokens=True)["input_ids"]
    assert slow.table["input_ids"].to_pylist() == [[*ids, 0] for ids in wanted]
    return fast.tokenized_by


@pytest.mark.parametrize("family", FAMILIES)
def test_gigatoken_stands_in(family: str) -> None:
    assert by_both(FAMILIES[family](), TEXTS) == {"gigatoken": len(TEXTS)}


@pytest.mark.parametrize("family", REFUSED)
def test_where_gigatoken_would_not_do_the_reason_is_told(family: str) -> None:
    (told,) = by_both(REFUSED[family](), TEXTS)
    assert told.startswith("tokenizers: ") and len(told.splitlines()) == 1 and len(told) < 200, told


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=60), max_size=8), st.sampled_from([*FAMILIES]))
def test_any_text_has_the_same_tokens(texts: list[str], family: str) -> None:
    tokenizer = ready(family)
    own = own_encoder(tokenizer)(texts)
    for mine, theirs in zip(fast_encoder(tokenizer).encode(texts), own, strict=True):
        assert mine.tolist() == theirs.tolist()


_made: dict[str, PreTrainedTokenizerBase] = {}


def ready(family: str) -> PreTrainedTokenizerBase:
    if family not in _made:
        _made[family] = FAMILIES[family]()
    return _made[family]


def test_a_tokenizer_written_in_python_is_asked_itself(tiny_model: Path) -> None:
    class Shouting(PreTrainedTokenizerFast):
        def _encode_plus(self, text: Any, *arguments: Any, **named: Any) -> Any:
            return super()._encode_plus([each.upper() for each in text], *arguments, **named)

    tokenizer = Shouting.from_pretrained(tiny_model)
    (told,) = by_both(tokenizer, list(SENTENCES))
    assert told.startswith("tokenizers: ")


def test_without_gigatoken(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    (told,) = by_both(AutoTokenizer.from_pretrained(tiny_model), list(SENTENCES))
    assert told.startswith("tokenizers: gigatoken cannot be imported here")


@pytest.mark.parametrize("place", [3, 40 + fast_tokens.TEXTS_PER_CALL])
def test_one_text_that_differs_and_the_whole_shard_is_done_by_the_own_tokenizer(
    place: int, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the first, and among those that are compared in a later batch."""
    texts = [f"{sentence} {number}" for number in range(80) for sentence in SENTENCES]
    texts[place if place < 32 else fast_tokens.TEXTS_PER_CALL + 1] += " zebra"
    right = FastEncoder._encode

    def wrong(self: FastEncoder, text: str) -> np.ndarray:
        return right(self, text)[::-1] if "zebra" in text else right(self, text)

    monkeypatch.setattr(FastEncoder, "_encode", wrong)
    told = by_both(AutoTokenizer.from_pretrained(tiny_model), texts)
    assert told == {"tokenizers: gigatoken gives other tokens for a text of the corpus": len(texts)}


def test_words_are_forgotten_after_a_while(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = fast_tokens._load
    monkeypatch.setattr(fast_tokens, "CHARACTERS_PER_LOAD", 20_000)
    monkeypatch.setattr(fast_tokens, "_load", lambda text: loads.append(text) or load(text))
    assert by_both(AutoTokenizer.from_pretrained(tiny_model), [*SENTENCES] * 100) == {"gigatoken": 1000}
    assert len(loads) > 3


def test_batches_hold_all_texts_and_books_come_one_at_a_time() -> None:
    texts = ["a" * 700_000, "b" * 700_000, "", *["c"] * 1500, "d" * 3_000_000]
    batches = list(batches_of(pa.chunked_array([texts[:2], texts[2:]])))
    assert [text for batch in batches for text in batch] == texts
    assert [len(batch) for batch in batches] == [1, 512, 512, 478, 1]


def test_an_empty_shard(tiny_model: Path) -> None:
    segments = text_segments(documents_of([]).cast(pa.schema([("text", pa.string()), ("document_id", pa.int64())])),
                             AutoTokenizer.from_pretrained(tiny_model), 0, "auto")  # fmt: skip
    assert segments.table.num_rows == 0 and not segments.tokenized_by


def files_of(texts: list[str], model: Path, target: Path, way: str) -> tuple[dict[str, bytes], Any]:
    shas = [text_sha256(text) for text in texts]
    documents = pa.table(
        {
            "document_id": [document_id_of(sha) for sha in shas], "text": texts, "uri": shas, "sha256": shas,
            "source": ["papers"] * len(texts), "licence": ["CC0-1.0"] * len(texts), "confidentiality": ["public"] * len(texts),
            "split": [("train", "heldout")[number % 5 == 0] for number in range(len(texts))],
        }
    )  # fmt: skip
    stage = ShardsStage.model_validate(
        {"stage": "shards", "corpus": "c", "model": "m", "rows": "text", "context": 256, "shards": 1, "fast_tokenizer": way}
    )  # fmt: skip
    store = Store(str(target))
    report = partition_writer(stage, store, read_tokenizer_files(Store(str(model))), frozenset({0}), 0)(0, documents)
    return {file.name: store.read(file.name) for file in store.files()}, report


@pytest.mark.skipif(not (ASSETS / "assets.json").exists(), reason="`make demo` fetches the texts and the model")
def test_shards_of_real_texts_are_the_same_bytes(tmp_path: Path) -> None:
    rows = itertools.islice(read_pubmed_file(ASSETS / "pubmed/pubmed21n1298.xml.gz"), 300)
    texts = [row.text for row in rows]
    for name in ("wiki", "c4"):
        lines = (ASSETS / f"general/{name}.jsonl").read_bytes().splitlines()
        texts += [orjson.loads(line)["text"][:8_000] for line in lines[:25]]
    texts += [f"{text} <|endoftext|>\x04<|im_start|>" for text in HARD]
    model = ASSETS / "smollm2-135m-instruct"
    slow, _ = files_of(texts, model, tmp_path / "slow", "off")
    fast, report = files_of(texts, model, tmp_path / "fast", "auto")
    assert fast == slow and len(fast) == 3, "both splits, and which rows a document is in"
    assert report["tokenized_by"] == {"gigatoken": len(texts)}
    assert pq.read_table(io.BytesIO(fast["train/shard-00000.parquet"])).num_rows > 100


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.one_of(st.text(max_size=30), st.sampled_from(SENTENCES)), min_size=1, max_size=12), st.integers(2, 24)
)
def test_no_token_is_lost_between_text_and_rows(texts: list[str], context: int) -> None:
    """Every token of every document and its end are in exactly one place, but for a last one that would be a piece by itself."""
    tokenizer = ready("few bytes")
    end = 0
    segments = without_lone_tokens(text_segments(documents_of(texts), tokenizer, end, "auto"), context)
    places: dict[int, Counter[tuple[int, ...]]] = {}
    for row in pack(segments.table, context, "split").to_pylist():
        assert len(row["input_ids"]) == sum(row["segment_lengths"]) <= context
        starts = itertools.accumulate(row["segment_lengths"], initial=0)
        for owner, start, length in zip(row["document_ids"], starts, row["segment_lengths"], strict=False):
            places.setdefault(owner, Counter())[tuple(row["input_ids"][start : start + length])] += 1
    lone = 0
    for number, text in enumerate(texts):
        whole: Any = tokenizer(text, split_special_tokens=True)["input_ids"]
        ids = [*whole, end]
        if len(ids) % context == 1:
            ids, lone = ids[:-1], lone + 1
        wanted = Counter(tuple(ids[start : start + context]) for start in range(0, len(ids), context))
        assert places.pop(number, Counter()) == wanted
    assert not places and segments.counts["lone_tokens"] == lone


def test_a_refusal_is_remembered() -> None:
    tokenizer = with_compatible_forms()
    with pytest.raises(Refusal) as first:
        fast_encoder(tokenizer)
    with pytest.raises(Refusal) as second:
        fast_encoder(tokenizer)
    assert str(first.value) == str(second.value) and "NFKC" in str(first.value)
