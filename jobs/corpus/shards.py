"""The corpus -> packed rows for one tokenizer and one template.

corpus files --by id--> per shard: sort by id -> tokenise -> pack --> {train,heldout}/shard-NNNNN.parquet
                              (judged answers: whole examples; prompts) --> documents/shard-NNNNN.parquet: who is in which rows
                                                                        --> {train,heldout}/index.parquet, manifest.json
"""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from cluster.storage import Store
from configs.schema.corpus import ShardsStage
from configs.schema.gate import Gate
from jobs.corpus.document_rows import by_document, documents_file, stretches, tokens_by_source
from jobs.corpus.gate import reasons_against, sealed, terms_of
from jobs.corpus.partitions import Progress, Report, Write, add_counts
from jobs.corpus.schema import INDEX_SCHEMA, SPLITS, DataError, number_of, write_table
from jobs.corpus.segments import TokenizerFiles, load_tokenizer, read_tokenizer_files, with_kind
from jobs.corpus.shard_documents import made_of_documents
from jobs.corpus.shard_rows import build_rows, check_kind, index_of
from jobs.corpus.template import check_template, end_token_ids
from jobs.corpus.writing import set_aside


@dataclass(frozen=True)
class SplitSummary:
    """The packed rows of one split.

    Example:
        SplitSummary(rows=5671, tokens=5_742_001, weighted_tokens=5_724_120, fill=0.9888, documents=17784,
                     tokens_by_source={"pubmed": 5_742_001})
    """

    rows: int
    tokens: int
    weighted_tokens: int
    fill: float
    """Tokens over rows times context: 1 would be no empty place. Examples are not packed: over answers times context."""
    documents: int
    tokens_by_source: dict[str, int]
    """Stored tokens by the source of their document."""


@dataclass(frozen=True)
class ShardsSummary:
    """What was packed and what was not."""

    rows: str
    """Their kind, as in the config: text, messages, preferences, thumbs or prompts."""
    context: int
    shards: int
    """A document is in the shard that its id is modulo this (jobs/corpus/document_rows.py)."""
    train: SplitSummary
    heldout: SplitSummary
    truncated: int
    """Conversations and answers cut at the context; something to learn is left in each."""
    lost_tokens: int
    """Cut off the truncated ones."""
    lone_tokens: int
    """Last tokens of texts of k x context + 1 tokens: nothing would predict one alone, so they are dropped."""
    left_out: int
    """Documents of another kind: without messages where `rows: messages`, not judged where `rows: preferences`."""
    quarantined: dict[str, int]
    """Documents by reason."""
    tokenizer_sha256: str
    template_sha256: str | None
    """Of the chat template's text; None where the model has none."""
    tokenized_by: dict[str, int]
    """Texts by what tokenised them; `rows: text` only. Not in the manifest: the ids are the same by either."""


def build_shards(
    stage: ShardsStage, corpus: Store, model: Store, output: Store, progress: Progress, trust_remote_code: bool = False
) -> ShardsSummary:
    """Writes the shards, tables of which rows a document is in, an index of rows per split (in order of shard and row),
    quarantine/ and manifest.json.

    Ray must be connected. The bytes of all files depend on the corpus, the tokenizer's files and the config only.

    Raises:
        DataError: the corpus is damaged or has no conversations, nothing is left for training, or every label is masked.
        TemplateError: the chat template cannot be trained with.
    """
    manifest = corpus.read_json("manifest.json")
    check_kind(stage, corpus, manifest)
    files = read_tokenizer_files(model, trust_remote_code)
    tokenizer = load_tokenizer(files)
    ends = end_token_ids(model, tokenizer)
    if stage.rows != "text":
        check_template(tokenizer, ends)
    end_id = document_end_id(stage, tokenizer)

    units = [{"name": name, **file} for name, file in manifest["files"].items() if name.startswith(SPLITS)]
    write = partition_writer(stage, output, with_kind(files), ends, end_id)
    reports = made_of_documents(stage, corpus, units, manifest.get("partitions"), write, progress)
    counts = add_counts(reports, "counts")
    summary = ShardsSummary(
        rows=stage.rows,
        context=stage.context,
        shards=stage.shards,
        train=_split_summary(reports, "train", stage),
        heldout=_split_summary(reports, "heldout", stage),
        truncated=counts.get("truncated", 0),
        lost_tokens=counts.get("lost_tokens", 0),
        lone_tokens=counts.get("lone_tokens", 0),
        left_out=manifest["train"] + manifest["heldout"] - counts.get("documents", 0),
        quarantined=add_counts(reports, "quarantined"),
        tokenizer_sha256=files.sha256,
        template_sha256=_template_sha256(tokenizer),
        tokenized_by=add_counts(reports, "tokenized_by"),
    )
    _check_something_is_learnt(stage, summary)
    _write_manifest(stage, reports, output, summary)
    return summary


def partition_writer(
    stage: ShardsStage, output: Store, files: TokenizerFiles, ends: frozenset[int], end_id: int
) -> Write:
    """Tokenises, packs and writes one shard from its documents, in whatever order they arrive."""

    def write(shard: int, documents: pa.Table) -> Report:
        tokenizer = load_tokenizer(files)
        report: Report = {"files": {}, "index": {}, "documents": {}, "tokens": {}, "tokenized_by": Counter()}
        report["counts"] = {"documents": documents.num_rows}
        rejected, places = [], []
        sources = dict(zip(documents["document_id"].to_pylist(), documents["source"].to_pylist(), strict=True))
        # document_id alone could tie: it is only the first 8 bytes of sha256.
        documents = documents.sort_by([("document_id", "ascending"), ("sha256", "ascending")])
        documents, refused = _through(stage.gate, documents)
        rejected.append(refused)
        report["terms"] = terms_of(documents)
        for split in SPLITS:
            built = build_rows(stage, documents, split, tokenizer, ends, end_id)
            rejected.append(built.rejected)
            report["counts"] = add_counts([report, {"counts": built.counts}], "counts")
            report["tokenized_by"] += built.tokenized_by
            report["documents"][split] = built.documents
            places.append(stretches(built.rows, split))
            report["tokens"][split] = tokens_by_source(places[-1], sources)
            if built.rows.num_rows:
                _put(output, f"{split}/shard-{shard:05d}.parquet", built.rows, report)
                report["index"][split] = index_of(built.rows, sources)
        if any(table.num_rows for table in places):
            _put(output, documents_file(shard), by_document(places), report)
        quarantine = pa.concat_tables(rejected).sort_by([("uri", "ascending"), ("reason", "ascending")])
        report["quarantined"] = Counter(quarantine["reason"].to_pylist())
        if quarantine.num_rows:
            _put(output, f"quarantine/shard-{shard:05d}.parquet", quarantine, report)
        return report

    return write


def _through(gate: Gate, documents: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Documents that may be used, and QUARANTINE_SCHEMA of the others."""
    reasons = pa.array(reasons_against(gate, documents), pa.string())
    refused = documents.filter(reasons.is_valid())
    return documents.filter(reasons.is_null()), set_aside(refused, "not_allowed", reasons.drop_null())


def _put(output: Store, name: str, table: pa.Table, report: Report) -> None:
    file = write_table(output, name, table)
    report["files"][name] = file.entry


def _split_summary(reports: list[Report], split: str, stage: ShardsStage) -> SplitSummary:
    indexes = [report["index"][split] for report in reports if split in report["index"]]
    rows = sum(len(index["tokens"]) for index in indexes)
    tokens = sum(index["stored_tokens"] for index in indexes)
    places = rows if stage.rows in ("text", "messages") else sum(index["segments"] for index in indexes)
    return SplitSummary(
        rows=rows,
        tokens=tokens,
        weighted_tokens=round(sum(sum(index["weight"]) for index in indexes)),
        fill=tokens / (places * stage.context) if places else 0.0,
        documents=sum(report["documents"][split] for report in reports),
        tokens_by_source=add_counts([report["tokens"] for report in reports], split),
    )


def _check_something_is_learnt(stage: ShardsStage, summary: ShardsSummary) -> None:
    reasons = f"in quarantine: {summary.quarantined or 'none'}"
    if summary.train.weighted_tokens > 0:
        return
    if "not_allowed" in summary.quarantined:
        raise DataError(
            f"the training split has nothing to learn, and `gate` lets {summary.quarantined['not_allowed']} documents not "
            f"through ({reasons}). If your organisation may use them, add their licences to `gate.train`."
        )
    if stage.rows != "text" and (summary.quarantined or summary.train.rows):
        raise DataError(
            f"every label of the training split is masked: no conversation has a token to learn ({reasons}). "
            f"Raise `context` ({stage.context}) if answers are cut off, give conversations a message of the assistant, or set "
            "`train_on: all`."
        )
    raise DataError(f"the training split has nothing to pack ({reasons}); look at the corpus stage's counts")


def _write_manifest(stage: ShardsStage, reports: list[Report], output: Store, summary: ShardsSummary) -> None:
    files: dict[str, Any] = {name: entry for report in reports for name, entry in report["files"].items()}
    for split in SPLITS:
        index: Report = {"files": {}}
        _put(output, f"{split}/index.parquet", _index_table(files, reports, split), index)
        files.update(index["files"])
    gate = sealed(stage.gate, add_counts(reports, "terms"), files)
    told = {name: value for name, value in asdict(summary).items() if name != "tokenized_by"}
    output.write_json("manifest.json", {**told, "gate": gate, "files": files})


def _index_table(files: dict[str, Any], reports: list[Report], split: str) -> pa.Table:
    """INDEX_SCHEMA: one row a packed row, in order of shard and row: reports come in the order of the shards."""
    names = sorted(name for name in files if name.startswith(f"{split}/shard-"))
    indexes = [report["index"][split] for report in reports if split in report["index"]]
    assert len(names) == len(indexes), f"{len(names)} files of {split}, {len(indexes)} indexes"
    rows: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names}
    for name, index in zip(names, indexes, strict=True):
        shard, count = number_of(name), len(index["tokens"])
        rows["shard"] += [shard] * count
        rows["row"] += range(count)
        for column in ("tokens", "weight", "source"):
            rows[column] += index[column]
    return pa.table(rows, schema=INDEX_SCHEMA)


def document_end_id(stage: ShardsStage, tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the token that closes a document. Raises DataError where the tokenizer does not have it."""
    token = stage.document_end if stage.document_end is not None else tokenizer.eos_token
    vocabulary = tokenizer.get_vocab()
    if not isinstance(token, str) or token not in vocabulary:
        known = ", ".join(map(str, tokenizer.all_special_tokens))
        raise DataError(f"document_end: {token!r} is not a token of this model; its special tokens are {known}")
    return vocabulary[token]


def _template_sha256(tokenizer: PreTrainedTokenizerBase) -> str | None:
    template = tokenizer.chat_template
    return hashlib.sha256(str(template).encode()).hexdigest() if template else None
