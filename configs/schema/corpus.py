"""Stages that turn documents into training rows: `corpus` and `shards`."""

from typing import Literal

from pydantic import Field

from configs.schema.tree import Fraction, Node, PositiveInt, StageName


class Source(Node):
    """One folder, file or bucket prefix of documents that share an origin and a licence."""

    path: str = Field(description="A file, a directory, a glob, or an s3:// prefix.")
    format: Literal["text", "jsonl", "pubmed"] = Field(
        description="text: one document a file; jsonl: one JSON object a line with `text`, `messages` or "
        "`instruction/context/response`; pubmed: NLM XML (.xml or .xml.gz), one document an abstract."
    )
    licence: str = Field(description="SPDX expression, or LicenseRef-... for terms without an SPDX id.")
    confidentiality: Literal["public", "internal", "restricted"] = "internal"
    limit_documents: PositiveInt | None = Field(default=None, description="Keep the first N documents in file order.")


class Cleaning(Node):
    """Text repair applied to every document before it is compared or split."""

    unicode: Literal["nfc", "none"] = "nfc"
    collapse_whitespace: bool = True
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
    heldout_fraction: Fraction = 0.02
    split_seed: int = 0
    partitions: PositiveInt = Field(
        default=8, description="Number of output files; a document's file is hash(id) mod this."
    )


class ShardsStage(Node):
    """Documents -> rendered, tokenised, packed rows for one tokenizer and one template."""

    stage: Literal["shards"]
    corpus: StageName
    model: str = Field(description="Stage or artifact whose tokenizer and chat template are used.")
    rows: Literal["text", "messages"] = Field(
        description="text: full documents, every token weighs 1; messages: conversations through the chat template."
    )
    train_on: Literal["assistant", "all"] = Field(
        default="assistant", description="Which tokens of a conversation weigh 1."
    )
    context: int = Field(default=1024, ge=16, description="Tokens of a packed row.")
    document_end: str | None = Field(
        default=None, description="Token that closes a document when `rows: text`; default: the tokenizer's EOS."
    )
    shards: PositiveInt = Field(
        default=8, description="Number of output shards; a document's shard is hash(id) mod this."
    )
