"""What a corpus leaves out because it is somewhere already: near-copies, shared paragraphs, texts of evaluation sets."""

from pydantic import Field

from configs.schema.tree import Fraction, Node, PositiveInt


class NearDuplicates(Node):
    """Documents whose 5-grams of words are nearly those of another, over the whole corpus and earlier ones (MinHash-LSH)."""

    similarity: float = Field(
        default=0.75, ge=0.5, le=1,
        description="Estimated Jaccard similarity of the 5-grams from which on two documents are near-copies. Of those that are "
        "80 % alike 98 % are found, of those that are 70 % alike 74 % are compared (jobs/corpus/minhash.py).",
    )  # fmt: skip
    against: list[str] = Field(
        default=[],
        description="Earlier corpora (stages or artifacts, with `near_duplicates` themselves): what is like theirs is left out.",
    )


class RepeatedParagraphs(Node):
    """Paragraphs of texts that several documents of this corpus share: notices, abouts, quotes. The first document keeps them.

    The first is of those that may be used most freely (jobs/corpus/gate.py, `freedom`), then of the first source. A
    paragraph is what stands between empty lines; of a text without any, a line. Case and spaces make no difference. A document
    that has hardly anything of its own is set aside, one with a paragraph of its own stays, however short; of those that stay
    id and sha256 are still those of the whole text.
    """

    minimum_characters: PositiveInt = Field(
        default=100, description="Shorter paragraphs stay everywhere: headings, names, formulas."
    )


class Decontamination(Node):
    """Documents that hold texts of evaluation sets: a model that has read them is measured too well."""

    against: list[str] = Field(min_length=1, description="Corpora (stages or artifacts) that models are evaluated on.")
    overlap: Fraction = Field(
        default=0.3,
        description="Share of an evaluation text's 13-grams of words that one document must hold to be left out. Texts of fewer "
        "than 13 words are found only where they are all of a document.",
    )
