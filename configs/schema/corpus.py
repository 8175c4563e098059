"""Stages that turn documents into training rows: `corpus` and `shards`."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from configs.schema.duplicates import Decontamination, NearDuplicates, RepeatedParagraphs
from configs.schema.gate import Confidentiality, Gate
from configs.schema.layout import Layout
from configs.schema.licences import Licence
from configs.schema.pii import Pii
from configs.schema.quality import Quality
from configs.schema.tree import FileCount, Fraction, Node, PositiveInt, StageName, recorded_only

RowFormat = Literal[
    "text_rows", "messages", "sharegpt", "prompt_completion", "instructions", "preferences", "ultrafeedback",
    "conversation_preferences", "instruction_preferences", "question_preferences", "swift_preferences", "openai_preferences",
    "arena", "helpsteer", "rankings", "thumbs", "conversation_thumbs",
]  # fmt: skip
"""How rows of JSON, JSON lines, Parquet and CSV files may be shaped; their columns are in jobs/corpus/formats.py."""


DocumentFormat = Literal["auto", "jsonl", "text", "html", "pdf", "docx", "pubmed", "jats"]
WITHOUT_COLUMNS = {*get_args(DocumentFormat)} - {"auto", "jsonl"}


class Source(Node):
    """One folder, file or bucket prefix of documents that share an origin and a licence."""

    path: str = Field(
        description="A file, a directory, a glob, an s3:// prefix, or hf:ORG/NAME@COMMIT[/PATH] of a data set on the hub, "
        "where PATH is a file, a directory or a glob (without it: all files but README, LICENSE and the like at the top)."
    )
    format: DocumentFormat | RowFormat = Field(
        default="auto",
        description="auto: every file by the end of its name, .gz and .zst of each too: rows (.jsonl, .json, .parquet, .csv, "
        ".tsv) of the one format that the columns of a file tell, texts (.txt, .md), .html, .pdf, .docx, and XML by its root "
        "element; jsonl: JSON lines, every row by its own columns; text, html, pdf, docx: one document a file; pubmed: NLM "
        "XML, one document an abstract; jats: journal XML, one document an article; or the name of a row format, where the "
        "columns fit several.",
    )
    licence: Licence = Field(description="SPDX expression, or LicenseRef-... for terms without an SPDX id.")
    licence_column: str | None = Field(
        default=None,
        description="Column of JSON, Parquet or CSV rows that holds a row's own licence, as an SPDX expression in any case; a "
        "row with another word there is set aside, one with nothing there has `licence`; a file without the column is refused.",
    )
    confidentiality: Confidentiality = "internal"
    limit_documents: PositiveInt | None = Field(default=None, description="Keep the first N documents in file order.")
    layout: Layout = Layout()
    quality: Quality | None = Field(default=None, description="Instead of the stage's `quality`, all of it.")

    @model_validator(mode="after")
    def _rows_have_columns(self) -> Self:
        if self.licence_column is not None and self.format in WITHOUT_COLUMNS:
            raise ValueError(f"licence_column: files of `format: {self.format}` have no columns; leave it out")
        return self


class Cleaning(Node):
    """Text repair applied to every document before it is compared or split."""

    unicode: Literal["nfc", "none"] = "nfc"
    collapse_whitespace: bool = Field(
        default=True,
        description="Of texts: one space between words, one empty line between paragraphs. Messages keep their whitespace "
        "(code is made of it); only empty lines before them and whitespace after them go.",
    )
    minimum_characters: int = Field(
        default=200, ge=0, description="Shorter documents go to quarantine with the reason."
    )


class CorpusStage(Node):
    """Documents with source and licence -> cleaned, deduplicated, split documents.

    The split is decided by a hash of the document's content and `split_seed`, so a document is on the same side in every
    corpus with the same fraction and seed, however it is reached.
    """

    stage: Literal["corpus"]
    sources: dict[StageName, Source] = Field(min_length=1)
    cleaning: Cleaning = Cleaning()
    pii: Pii = Pii()
    near_duplicates: NearDuplicates | None = None
    repeated_paragraphs: RepeatedParagraphs | None = None
    decontamination: Decontamination | None = None
    quality: Quality = Field(
        default=Quality(), description="Rules that set documents aside, for all sources that have none of their own."
    )
    heldout_fraction: Fraction = 0.02
    split_seed: int = 0
    partitions: FileCount = Field(
        default=8, description="Number of output files; a document's file is its id, a hash, mod this."
    )


READ_BY = {
    "train_on": ("messages",),
    "too_long": ("messages", "preferences", "thumbs", "prompts"),
    "document_end": ("text",),
    "fast_tokenizer": ("text",),
}
"""Settings that not all `rows` have a use for. Texts are cut into rows, never cut off."""


class ShardsStage(Node):
    """Documents -> rendered, tokenised, packed rows for one tokenizer and one template."""

    stage: Literal["shards"]
    corpus: StageName
    model: str = Field(description="Stage or artifact whose tokenizer and chat template are used.")
    rows: Literal["text", "messages", "preferences", "thumbs", "prompts"] = Field(
        description="text: full documents, every token weighs 1; messages: conversations through the chat template; "
        "preferences: a prompt with its chosen and rejected, or ranked, answers; thumbs: answers that people like or do not "
        "(of a preference, the best answer is liked and the worst is not); prompts: conversations up to their last answer, for "
        "PPO to answer."
    )
    train_on: Literal["assistant", "last", "all"] = Field(
        default="assistant",
        description="Which tokens of a conversation weigh 1: all answers, the last one, or everything. An answer whose "
        "message says `weight: 0` or `train: false` is never learnt.",
    )
    gate: Gate = Field(default=Gate(), description="Which documents may be used, and for what.")
    context: int = Field(
        default=1024, ge=16, description="Tokens of a packed row; most of a prompt, or of one with an answer."
    )
    too_long: Literal["truncate", "quarantine"] = Field(
        default="truncate",
        description="Conversations and answers longer than `context`: cut off and counted, or set aside with their place.",
    )
    document_end: str | None = Field(
        default=None, description="Token that closes a document when `rows: text`; default: the tokenizer's EOS."
    )
    shards: FileCount = Field(
        default=8,
        description="Number of output shards; a document's shard is its id mod this. As many as the corpus has `partitions`, or "
        "a divisor of them, are made file by file, without a shuffle.",
    )

    fast_tokenizer: Literal["auto", "off"] = recorded_only(
        "auto",
        description="auto: texts are tokenised by gigatoken where, on hard strings and samples of every shard, it gives the very "
        "tokens of the model's own tokenizer; off: always by that one. The shards are the same, `rows: text` only.",
    )

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        for name, rows in READ_BY.items():
            if self.rows not in rows and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect on `rows: {self.rows}`; it is for {' and '.join(rows)}")
        return self
