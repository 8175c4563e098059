"""Tier `ner`: names, places and organisations, by a spaCy pipeline that the user names and has. None is downloaded."""

from collections.abc import Callable, Iterable, Iterator

from configs.errors import UserError
from configs.schema.pii import NerKind, Pii
from jobs.corpus.pii_checks import normalised
from jobs.corpus.pii_patterns import Span

KIND_OF_LABEL: dict[str, NerKind] = {
    "PERSON": "person", "PER": "person", "LOC": "location", "GPE": "location", "FAC": "location", "ORG": "organization",
}  # fmt: skip
"""OntoNotes' labels and WikiNER's, which spaCy's pipelines are trained on."""


def ner_finder(settings: Pii) -> Callable[[str], Iterable[Span]]:
    """Raises UserError where spaCy or the pipeline is not there, or where the pipeline finds none of the wanted kinds."""
    assert settings.ner_pipeline is not None
    try:
        import spacy
    except ImportError as error:
        raise UserError(
            f"pii.tier: ner needs spaCy, which is not installed here ({error.name} is missing). "
            "Install it on every host: pip install 'acclimate[pii]', or set `tier: presidio`."
        ) from error
    try:
        pipeline = spacy.load(settings.ner_pipeline)
    except OSError as error:
        raise UserError(
            f"pii.ner_pipeline: {settings.ner_pipeline} is neither a directory with a spaCy pipeline nor an installed package. "
            "Install it on every host (python -m spacy download en_core_web_sm, say), or name the directory that holds it."
        ) from error
    wanted = set(settings.wanted_kinds)
    labels = {label for labels in pipeline.pipe_labels.values() for label in labels}
    if not any(KIND_OF_LABEL.get(label) in wanted for label in labels):
        raise UserError(
            f"pii.ner_pipeline: {settings.ner_pipeline} finds {', '.join(sorted(labels)) or 'nothing'}, and none of it is what "
            f"`kinds` asks for. Labels that are known: {', '.join(KIND_OF_LABEL)}."
        )

    def find(text: str) -> Iterator[Span]:
        for entity in pipeline(text).ents:
            kind = KIND_OF_LABEL.get(entity.label_)
            if kind in wanted:
                yield Span(entity.start_char, entity.end_char, kind, normalised(kind, entity.text))

    return find
