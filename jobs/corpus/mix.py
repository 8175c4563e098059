"""Packed rows of several shards artifacts -> one of the same form, in which each has its share of the tokens.

documents of the inputs --none on both sides of the split, those that two have are told (crossing.py)-->
indexes of the inputs --which rows, and where to (shares.py)--> units
files of the inputs --rows, hash shuffle by shard (mix_files.py)--> {train,heldout,documents}/shard-NNNNN.parquet
                                                 --> {train,heldout}/index.parquet, manifest.json

The driver sees indexes only. A train stage reads the result as it reads what a shards stage made.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.storage import Store
from configs.schema.mix import MixStage
from configs.schema.run import MIXED_ROWS
from jobs.corpus.crossing import shared_documents
from jobs.corpus.document_rows import DOCUMENTS
from jobs.corpus.gate import sealed_together
from jobs.corpus.mix_files import (
    index_table,
    partition_reader,
    partition_writer,
    put,
    read_indexes,
    shard_name,
    tokens_of,
    told_apart,
    units_of,
)
from jobs.corpus.partitions import Progress, Report, run_partitions
from jobs.corpus.schema import SPLITS, DataError
from jobs.corpus.shares import Choice, Numbers, Placement, choose, dealt, heldout_uses, in_a_row

MIXED = "mixed"
"""`rows` of a mix of texts and conversations."""


@dataclass(frozen=True)
class MixedSplit:
    """The rows of one split.

    Example:
        MixedSplit(rows=5671, tokens=5_742_001, weighted_tokens=5_724_120, fill=0.9888)
    """

    rows: int
    tokens: int
    weighted_tokens: int
    fill: float
    """Tokens over rows times context."""


@dataclass(frozen=True)
class MixedInput:
    """What the training split has of one input.

    Example:
        MixedInput(asked=0.665, tokens=3_818_430, rows=3771, unused=0.41)
    """

    asked: float
    """Share of the tokens."""
    tokens: int
    """A row that is used twice counts twice."""
    rows: int
    unused: float
    """Share of the input's own tokens that are not in the mix."""


@dataclass(frozen=True)
class MixSummary:
    """What was mixed."""

    rows: str
    """Kind of all of them: text or messages; mixed where there are both."""
    context: int
    tokenizer_sha256: str
    template_sha256: str | None
    train: MixedSplit
    heldout: MixedSplit
    shares: dict[str, float]
    """Of the training tokens, by input, as they came out; to four digits."""
    inputs: dict[str, MixedInput]
    scarcest: str
    """The input that limits the mix."""
    shared: dict[str, int]
    """Documents that two inputs train on, by the names of both: {"papers and wiki": 12}."""


def build_mix(
    name: str,
    stage: MixStage,
    inputs: Mapping[str, Store],
    output: Store,
    progress: Progress,
    say: Callable[[str], None],
) -> MixSummary:
    """Writes shards, an index of rows per split (in order of shard and row) and manifest.json, as build_shards does.

    Ray must be connected. The bytes of all files depend on the inputs and the config only.

    Args:
        name: of the stage, for what is said.
        inputs: shards artifacts, by their names in the config.

    Raises:
        DataError: inputs do not fit together or are damaged, one trains on what another holds out, or a share is less than
            a row.
    """
    manifests = {each: inputs[each].read_json("manifest.json") for each in sorted(inputs)}
    check_mixable(name, inputs, manifests)
    shared = shared_documents(name, inputs, manifests, stage.shards, progress, run_partitions)
    for pair, count in shared.items():
        say(
            f"{count:,} documents are in the training rows of both {pair}: the mix may have them twice. "
            "If that is not meant, build one of their corpora `near_duplicates.against` the other"
        )
    indexes = told_apart({split: read_indexes(inputs, manifests, split) for split in SPLITS})
    tokens = tokens_of(indexes["train"])
    choice = choose(tokens, stage.fractions, stage.repeat, stage.choice_seed)
    _check_no_share_is_lost(name, choice, stage.fractions)
    limit = limited_by(name, stage, choice, tokens)
    if limit is not None:
        say(limit)
    placements = {
        "train": dealt(choice.uses, tokens, stage.fractions, stage.shards),
        "heldout": _heldout_placement(stage, tokens_of(indexes["heldout"])),
    }
    units = [unit for split in SPLITS for unit in units_of(split, placements[split], indexes[split], manifests)]
    reports = run_partitions(units, partition_reader(inputs), partition_writer(output), stage.shards, "mix", progress)
    rows = {split: index_table(placements[split], indexes[split]) for split in SPLITS}
    summary = _summary(stage, combined(manifests), rows, choice, tokens, shared)
    _write_manifest(manifests, reports, rows, output, summary)
    return summary


def check_mixable(name: str, inputs: Mapping[str, Store], manifests: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises DataError where shards cannot be mixed, naming the ones that do not fit.

    Args:
        name: of the mix.
        manifests: of the inputs that are finished; at least one.
    """
    first, *others = manifests
    for each in manifests:
        rows = manifests[each]["rows"]
        if rows not in MIXED_ROWS:
            raise DataError(
                f"stages.{name}: {each} has `rows: {rows}`; what can be mixed are rows of {' and '.join(MIXED_ROWS)}"
            )
    for each in others:
        if manifests[each]["context"] != manifests[first]["context"]:
            raise DataError(
                f"stages.{name}: {first} has rows of {manifests[first]['context']} tokens and {each} of "
                f"{manifests[each]['context']}; give them one `context`"
            )
        if manifests[each]["tokenizer_sha256"] != manifests[first]["tokenizer_sha256"]:
            raise DataError(
                f"stages.{name}: {each} was made with another tokenizer or template than {first}; give both the same `model`, "
                "or models of which one comes from the other"
            )
    roots = Counter(inputs[each].root for each in manifests)
    twice = [each for each in manifests if roots[inputs[each].root] > 1]
    if twice:
        raise DataError(
            f"stages.{name}: {' and '.join(twice)} are the same rows; leave one out, or use its rows more often with `repeat`"
        )


def combined(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the manifests of the inputs say of their rows as a whole, and so what that of the mix says."""
    first = next(iter(manifests.values()))
    kinds = {manifest["rows"] for manifest in manifests.values()}
    return {
        "rows": kinds.pop() if len(kinds) == 1 else MIXED,
        **{key: first[key] for key in ("context", "tokenizer_sha256", "template_sha256")},
    }


def limited_by(name: str, stage: MixStage, choice: Choice, tokens: Mapping[str, Numbers]) -> str | None:
    """Which input limits the mix, what of the others it leaves unused, and how to mend it; None where all is used."""
    unused = {each: _unused(choice.uses[each], tokens[each]) for each in choice.uses}
    left = [f"{share:.1%} of {each}" for each, share in unused.items() if round(share, 3)]
    if not left:
        return None
    scarcest = choice.scarcest
    reach = {each: tokens[each].sum() / share for each, share in stage.fractions.items()}
    now, enough = stage.repeat.get(scarcest, 1), math.ceil(max(reach.values()) / reach[scarcest])
    replayed = stage.replay is not None and stage.replay.shards == scarcest
    share = f"stages.{name}.replay.share" if replayed else f"stages.{name}.shares.{scarcest}"
    return (
        f"{scarcest} is the scarcest for its share and limits the mix: its {tokens[scarcest].sum():,} training tokens are used "
        f"{'once' if now == 1 else f'{now} times'}, and {', '.join(left)} not at all. To use more, raise "
        f"stages.{name}.repeat.{scarcest} (now {now}; {enough} would use everything) or lower {share}"
    )


def realised(choice: Choice, tokens: Mapping[str, Numbers]) -> dict[str, float]:
    """Share of the training tokens that every input has in the end, to four digits."""
    used = {each: int(tokens[each][uses].sum()) for each, uses in choice.uses.items()}
    return {each: round(count / sum(used.values()), 4) for each, count in used.items()}


def _check_no_share_is_lost(name: str, choice: Choice, fractions: Mapping[str, float]) -> None:
    for each, uses in choice.uses.items():
        if not len(uses):
            raise DataError(
                f"stages.{name}: {each} should have {fractions[each]:.4g} of all tokens, which comes to no row of it: "
                f"{choice.scarcest} allows no larger mix. Raise the share, raise stages.{name}.repeat.{choice.scarcest}, or "
                f"leave {each} out."
            )


def _heldout_placement(stage: MixStage, tokens: Mapping[str, Numbers]) -> Placement:
    replayed = None if stage.replay is None else stage.replay.shards
    uses = heldout_uses(tokens, stage.fractions, replayed, stage.choice_seed)
    return in_a_row(uses, tokens, stage.fractions, stage.shards)


def _summary(
    stage: MixStage,
    together: dict[str, Any],
    rows: Mapping[str, pa.Table],
    choice: Choice,
    tokens: Mapping[str, Numbers],
    shared: dict[str, int],
) -> MixSummary:
    return MixSummary(
        **together,
        train=_split_summary(rows["train"], together["context"]),
        heldout=_split_summary(rows["heldout"], together["context"]),
        shares=realised(choice, tokens),
        inputs={
            each: MixedInput(asked, int(tokens[each][uses].sum()), len(uses), _unused(uses, tokens[each]))
            for (each, asked), uses in zip(stage.fractions.items(), choice.uses.values(), strict=True)
        },
        scarcest=choice.scarcest,
        shared=shared,
    )


def _split_summary(index: pa.Table, context: int) -> MixedSplit:
    tokens = int(index["tokens"].to_numpy().sum(dtype=np.int64))
    weight = float(index["weight"].to_numpy().sum(dtype=np.float64))
    return MixedSplit(
        index.num_rows, tokens, round(weight), tokens / (index.num_rows * context) if index.num_rows else 0.0
    )


def _unused(uses: Numbers, tokens: Numbers) -> float:
    return 1 - float(tokens[np.unique(uses)].sum() / tokens.sum())


def _write_manifest(
    manifests: Mapping[str, Any],
    reports: list[Report],
    rows: Mapping[str, pa.Table],
    output: Store,
    summary: MixSummary,
) -> None:
    files: dict[str, Any] = {name: entry for report in reports for name, entry in report["files"].items()}
    written = {name: entry["rows"] for name, entry in files.items() if not name.startswith(DOCUMENTS)}
    planned = Counter(shard_name(split, shard) for split, index in rows.items() for shard in index["shard"].to_pylist())
    assert written == planned, (written, planned)
    for split, index in rows.items():
        put(output, f"{split}/index.parquet", index, files)
    output.write_json("manifest.json", {**asdict(summary), "gate": sealed_together(manifests, files), "files": files})
