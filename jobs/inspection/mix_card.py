"""A finished mix as a data card: which share of the tokens each input was to have, which it has, and what limits it.

    record, manifest.json --mix_card--> MixCard --mix_html--> one HTML page

All of it is counted in the manifest. What the documents are like is in the card of each input, which this one names.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.artifacts import Artifact
from jobs.corpus.mix import MixedInput, MixedSplit
from jobs.evaluate.charts import shares
from jobs.evaluate.page import render
from jobs.evaluate.report import flattened

TEMPLATE = "mix_card.html.jinja"


@dataclass(frozen=True)
class MixPart(MixedInput):
    """One input.

    Example:
        MixPart(asked=0.05, tokens=287_100, rows=290, unused=0.2, name="general", directory="shards-6c1f...", share=0.0502)
    """

    name: str
    directory: str
    """Of its artifact in the store; `acclimate data card` takes the key behind the dash."""
    share: float
    """Of the training tokens, as it came out; to four digits."""


@dataclass(frozen=True)
class MixCard:
    """What `acclimate data card` says of a mix."""

    name: str
    key: str
    directory: str
    finished_at: str
    rows: str
    """Their kind: text, messages or mixed."""
    context: int
    """Tokens of a row."""
    train: MixedSplit
    heldout: MixedSplit
    parts: list[MixPart]
    """The largest share first."""
    scarcest: str
    """The input that limits the mix."""
    shared: dict[str, int]
    """Documents that two inputs train on, by the names of both."""
    decisions: list[dict[str, Any]]
    """Documents, licence, confidentiality and what is allowed (jobs/corpus/gate.py), of all inputs."""
    allowed: list[str]
    """What all of it may be used for."""
    settings: dict[str, Any]


def mix_card(artifact: Artifact, about: dict[str, Any]) -> MixCard:
    """The card.

    Args:
        about: name, key, directory and finished_at.
    """
    manifest, parents = artifact.content.read_json("manifest.json"), artifact.record["parents"]
    directories = {role.removeprefix("shares."): directory for role, directory in parents.items()}
    replay = artifact.record["settings"]["replay"]
    if replay is not None:
        directories[replay["shards"]] = parents["replay.shards"]
    parts = [
        MixPart(**found, name=name, directory=directories[name], share=manifest["shares"][name])
        for name, found in manifest["inputs"].items()
    ]
    return MixCard(
        **about,
        rows=manifest["rows"],
        context=manifest["context"],
        train=MixedSplit(**manifest["train"]),
        heldout=MixedSplit(**manifest["heldout"]),
        parts=sorted(parts, key=lambda part: (-part.share, part.name)),
        scarcest=manifest["scarcest"],
        shared=manifest["shared"],
        decisions=manifest["gate"]["decisions"],
        allowed=manifest["gate"]["allowed"],
        settings=artifact.record["settings"],
    )


def mix_html(card: MixCard) -> str:
    """The page, in the look of the other cards."""
    return render(
        Path(__file__).parent,
        TEMPLATE,
        card=card,
        drawing=shares({part.name: part.tokens for part in card.parts}, "training tokens by input"),
        settings=dict(flattened(card.settings)),
    )


def mix_lines(card: MixCard) -> list[str]:
    """For a terminal."""
    came_out = ", ".join(f"{part.name} {part.share:.1%} (asked {part.asked:.1%})" for part in card.parts)
    return [
        f"{card.name}: {card.train.tokens:,} tokens for training, {card.heldout.tokens:,} held out; fill {card.train.fill:.1%}",
        came_out,
    ]
