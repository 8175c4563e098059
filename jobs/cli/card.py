"""`data card`: what a finished corpus or its shards hold, as a page for people and as JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from configs.errors import UserError
from jobs.cli.places import StoreOption, open_for_looking
from jobs.cli.plan import JsonOption

if TYPE_CHECKING:
    from jobs.inspection.card_records import DataCard

PAGE = "card.html"


class NoPlace(UserError):
    """The page cannot be written there."""


def card(
    artifact: Annotated[str, typer.Argument(help="Name or key of a finished corpus, shards or mix artifact.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help=f"Where the page goes; default: {PAGE}, none with --json."),
    ] = None,
    documents: Annotated[int, typer.Option("--documents", min=1, help="How many documents are read at most.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Chooses them, and the samples that are shown.")] = 0,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a data card: counts, lengths, languages, licences, duplicates, personal data, what was set aside, samples."""
    from cluster.artifacts import find_named
    from jobs.inspection.card import KINDS, data_card
    from jobs.inspection.card_page import card_html
    from jobs.inspection.mix_card import MixCard, mix_html, mix_lines

    opened = open_for_looking(store)
    made = data_card(opened, find_named(opened, artifact, KINDS), documents, seed)
    page = out or (None if as_json else Path(PAGE))
    if page is not None:
        _write(page, mix_html(made) if isinstance(made, MixCard) else card_html(made))
    if as_json:
        print(json.dumps(asdict(made), indent=2, ensure_ascii=False))  # noqa: T201 - data goes to stdout
    else:
        lines = mix_lines(made) if isinstance(made, MixCard) else _lines(made)
        Console().print("\n".join([*lines, str(page)]), highlight=False, soft_wrap=True, markup=False)


def _write(page: Path, html: str) -> None:
    try:
        page.write_text(html, encoding="utf-8")
    except OSError as error:
        raise NoPlace(f"--out {page}: {error.strerror}; name a file in a directory that is there") from error


def _lines(made: "DataCard") -> list[str]:
    corpus, shards = made.corpus, made.shards
    lines = [
        f"{corpus.name}: {corpus.train:,} documents for training, {corpus.heldout:,} held out; "
        f"{sum(found.rows for found in corpus.quarantined):,} rows set aside"
    ]
    if shards is not None:
        lines.insert(
            0,
            f"{shards.name}: {shards.train.tokens:,} tokens for training, {shards.heldout.tokens:,} held out; "
            f"fill {shards.train.fill:.1%}",
        )
    if corpus.withheld:
        lines.append(f"restricted, so that nothing of them is shown: {', '.join(corpus.withheld)}")
    return lines
