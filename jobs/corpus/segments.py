"""Documents of one shard -> segments of tokens and weights, ready to be packed.

The tokenizer travels to the workers as the bytes of its files: hosts share no disk, and every worker uses the very files
whose hash is recorded.
"""

import functools
import hashlib
import importlib
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from cluster.storage import Store
from configs.schema.corpus import ShardsStage
from jobs.corpus.fast_tokens import GIGATOKEN, OWN, Refusal, batches_of, encode_all, fast_encoder, own_encoder
from jobs.corpus.raw import RowError
from jobs.corpus.schema import QUARANTINE_SCHEMA, DataError
from jobs.corpus.template import render

TOKENIZER_SUFFIXES = (".json", ".jinja", ".model", ".txt")
"""Tokenizer, template and model config; SentencePiece models and merges. Weights end otherwise."""
WEIGHTS_INDEX = ".index.json"

SEGMENT_SCHEMA = pa.schema(
    [("input_ids", pa.list_(pa.int32())), ("weights", pa.list_(pa.float32())), ("document_id", pa.int64())]
)


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as a value.

    Example:
        TokenizerFiles(files=(("tokenizer.json", b"..."), ("tokenizer_config.json", b"...")))
    """

    files: tuple[tuple[str, bytes], ...]
    """(name, content), sorted by name; Python files among them where they are trusted."""
    trust_remote_code: bool = False
    kind: str | None = None
    """module:name of the tokenizer's class, where it is known (`with_kind`)."""

    @functools.cached_property
    def sha256(self) -> str:
        """Of the sorted names and their contents' sha256."""
        lines = [f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in self.files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_tokenizer_files(model: Store, trust_remote_code: bool = False) -> TokenizerFiles:
    """Raises DataError where the directory holds no tokenizer."""
    suffixes = (*TOKENIZER_SUFFIXES, ".py") if trust_remote_code else TOKENIZER_SUFFIXES
    names = [name for name in model.names() if name.endswith(suffixes) and not name.endswith(WEIGHTS_INDEX)]
    if "tokenizer_config.json" not in names:
        raise DataError(f"{model.root} has no tokenizer_config.json; is it a model directory?")
    return TokenizerFiles(tuple((name, model.read(name)) for name in names), trust_remote_code)


@functools.lru_cache(maxsize=2)
def load_tokenizer(files: TokenizerFiles) -> PreTrainedTokenizerBase:
    """The tokenizer; loaded once in a process. Runs code from the model directory only where that is trusted."""
    with tempfile.TemporaryDirectory(prefix="acclimate-tokenizer-") as directory:
        for name, content in files.files:
            Path(directory, name).write_bytes(content)
        if files.kind is None:
            from transformers import AutoTokenizer  # takes torch along: three seconds

            tokenizer = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=files.trust_remote_code
            )
        else:
            module, _, name = files.kind.partition(":")
            tokenizer = getattr(importlib.import_module(module), name).from_pretrained(directory, local_files_only=True)
    # "Token indices sequence length is longer than the maximum": packing cuts or counts what is too long.
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)
    return tokenizer


def with_kind(files: TokenizerFiles) -> TokenizerFiles:
    """The same files with the class that AutoTokenizer finds for them, so that workers need not find it and import torch.

    Without it where the class is not transformers' own, or makes another tokenizer when it is called by itself.
    """
    found = load_tokenizer(files)
    kind = type(found)
    if files.trust_remote_code or not kind.__module__.startswith("transformers."):
        return files
    told = replace(files, kind=f"{kind.__module__}:{kind.__qualname__}")
    return told if _described(load_tokenizer(told)) == _described(found) is not None else files


def _described(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...] | None:
    """All that makes ids of texts and conversations; None where that is more than a tokenizer.json and a template."""
    if not isinstance(tokenizer, TokenizersBackend):
        return None
    return tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.special_tokens_map


@dataclass(frozen=True)
class Segments:
    """The segments of a shard and what did not become one."""

    table: pa.Table
    """SEGMENT_SCHEMA, in the order of the documents."""
    rejected: pa.Table
    """QUARANTINE_SCHEMA"""
    counts: Counter[str]
    """`truncated`: conversations longer than the context; `lost_tokens`: what was cut off them; `lone_tokens`: of texts."""
    tokenized_by: Counter[str] = field(default_factory=Counter)
    """Texts by GIGATOKEN or OWN (jobs/corpus/fast_tokens.py), and why by OWN where GIGATOKEN was to be tried."""


def text_segments(
    documents: pa.Table, tokenizer: PreTrainedTokenizerBase, end_id: int, fast_tokenizer: Literal["auto", "off"] = "off"
) -> Segments:
    """Whole documents closed by `end_id`; every token weighs 1 (packing sets the first of a segment to 0).

    Special tokens spelt in a document are ordinary text here: a corpus cannot end its own documents.
    """
    batches, by = _ids_of(documents["text"], tokenizer, fast_tokenizer)
    owners = documents["document_id"].to_numpy()
    end = np.array([end_id], dtype=np.int32)
    tables, done = [], 0
    for rows in batches:
        ids = [np.concatenate([row, end]) for row in rows]
        weights = [np.ones(len(row), np.float32) for row in ids]
        tables.append(_segment_table(ids, weights, owners[done : done + len(ids)]))
        done += len(ids)
    return Segments(
        _concatenated(tables), QUARANTINE_SCHEMA.empty_table(), Counter(), Counter({by: done} if done else {})
    )


def _ids_of(
    texts: pa.ChunkedArray, tokenizer: PreTrainedTokenizerBase, fast_tokenizer: Literal["auto", "off"]
) -> tuple[Iterable[list[np.ndarray]], str]:
    """Ids of the texts in batches, and by what; where gigatoken will not do, why."""
    by = OWN
    if fast_tokenizer == "auto" and len(texts):
        try:
            return list(encode_all(texts, fast_encoder(tokenizer))), GIGATOKEN
        except Refusal as refusal:
            by = f"{OWN}: {refusal}"
    return map(own_encoder(tokenizer), batches_of(texts)), by


def without_lone_tokens(segments: Segments, context: int) -> Segments:
    """Without the last token of texts of k x context + 1: as a piece of its own nothing predicts it, and it fills a row."""
    if segments.table.num_rows == 0:
        return segments
    ids, weights = segments.table["input_ids"].chunk(0), segments.table["weights"].chunk(0)
    offsets = ids.offsets.to_numpy()
    lengths = np.diff(offsets)
    lone = lengths % context == 1
    if not lone.any():
        return segments
    kept = np.ones(offsets[-1] - offsets[0], dtype=bool)
    kept[offsets[1:][lone] - offsets[0] - 1] = False
    shorter = pa.array(np.concatenate([[0], np.cumsum(lengths - lone)]), pa.int32())
    columns = {
        "input_ids": pa.ListArray.from_arrays(shorter, pa.array(ids.flatten().to_numpy()[kept])),
        "weights": pa.ListArray.from_arrays(shorter, pa.array(weights.flatten().to_numpy()[kept])),
        "document_id": segments.table["document_id"],
    }
    table = pa.table(columns, schema=SEGMENT_SCHEMA)
    if not (lengths > lone).all():  # a filter copies all lists
        table = table.filter(pa.array(lengths > lone)).combine_chunks()
    counts = segments.counts + Counter(lone_tokens=int(lone.sum()))
    return replace(segments, table=table, counts=counts)


def conversation_segments(
    documents: pa.Table, tokenizer: PreTrainedTokenizerBase, stage: ShardsStage, ends: frozenset[int]
) -> Segments:
    """Conversations through the chat template. What is longer than the context is cut off by the packing and counted here,
    or set aside (`too_long: quarantine`); where nothing to learn is left, or the template does not fit, it always is.
    """
    ids, weights, owners = [], [], []
    rejected: list[dict[str, str]] = []
    counts: Counter[str] = Counter()
    for document in documents.select(["document_id", "messages", "uri", "source"]).to_pylist():
        try:
            rendered = render(tokenizer, orjson.loads(document["messages"]), ends, stage.train_on)
            surplus = len(rendered.input_ids) - stage.context
            if surplus > 0 and stage.too_long == "quarantine":
                raise RowError("too_long", f"{surplus} tokens over the context of {stage.context}")
            if not rendered.weights[: stage.context].any():
                raise RowError(
                    "answer_cut_off", f"{surplus} tokens over the context of {stage.context}, and with them all answers"
                )
        except RowError as error:
            place = {"uri": document["uri"], "source": document["source"]}
            rejected.append({**place, "reason": error.reason, "detail": error.detail})
            continue
        if surplus > 0:
            counts.update(truncated=1, lost_tokens=surplus)
        ids.append(rendered.input_ids)
        weights.append(rendered.weights)
        owners.append(document["document_id"])
    table = _concatenated([_segment_table(ids, weights, owners)])
    return Segments(table, pa.Table.from_pylist(rejected, schema=QUARANTINE_SCHEMA), counts)


def _segment_table(ids: list[np.ndarray], weights: list[np.ndarray], owners: Sequence[int] | np.ndarray) -> pa.Table:
    offsets = pa.array(np.concatenate([[0], np.cumsum([len(row) for row in ids])]), pa.int32())
    columns = {
        "input_ids": pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([np.empty(0, np.int32), *ids]))),
        "weights": pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([np.empty(0, np.float32), *weights]))),
        "document_id": pa.array(owners, pa.int64()),
    }
    return pa.table(columns, schema=SEGMENT_SCHEMA)


def _concatenated(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables([SEGMENT_SCHEMA.empty_table(), *tables]).combine_chunks()
