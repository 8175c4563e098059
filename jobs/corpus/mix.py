"""Packed rows of several shards artifacts -> one of the same form, in which each has its share of the tokens.

indexes of the inputs --which rows, and where to (shares.py)--> units: a file and what is used of it
files of the inputs --rows, hash shuffle by shard--> {train,heldout}/shard-NNNNN.parquet
                                                 --> {train,heldout}/index.parquet, manifest.json

The driver sees indexes only. A train stage reads the result as it reads what a shards stage made.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.storage import Store
from configs.schema.mix import MixStage
from configs.schema.run import MIXED_ROWS
from jobs.corpus.partitions import Progress, Read, Report, Write, run_partitions
from jobs.corpus.schema import INDEX_SCHEMA, ROW_SCHEMA, DataError, read_table, write_table
from jobs.corpus.shares import Choice, Numbers, Placement, choose, dealt, heldout_uses, in_a_row

SPLITS = ("train", "heldout")

MIXED = "mixed"
"""`rows` of a mix of texts and conversations."""

Indexes = dict[str, pa.Table]
"""By input, in order of their names: INDEX_SCHEMA of one split."""


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
        DataError: inputs do not fit together or are damaged, or a share is less than a row.
    """
    manifests = {each: inputs[each].read_json("manifest.json") for each in sorted(inputs)}
    check_mixable(name, inputs, manifests)
    indexes = _told_apart({split: _read_indexes(inputs, manifests, split) for split in SPLITS})
    tokens = _tokens(indexes["train"])
    choice = choose(tokens, stage.fractions, stage.repeat, stage.choice_seed)
    _check_no_share_is_lost(name, choice, stage.fractions)
    limit = limited_by(name, stage, choice, tokens)
    if limit is not None:
        say(limit)
    placements = {
        "train": dealt(choice.uses, tokens, stage.fractions, stage.shards),
        "heldout": _heldout_placement(stage, _tokens(indexes["heldout"])),
    }
    units = [unit for split in SPLITS for unit in _units(split, placements[split], indexes[split], manifests)]
    reports = run_partitions(units, partition_reader(inputs), partition_writer(output), stage.shards, "mix", progress)
    rows = {split: _index_table(placements[split], indexes[split]) for split in SPLITS}
    summary = _summary(stage, combined(manifests), rows, choice, tokens)
    _write_manifest(reports, rows, output, summary)
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


def partition_reader(inputs: Mapping[str, Store]) -> Read:
    """Reads what is used of one file and gives every row its shard and its place there."""

    def read(unit: dict[str, Any]) -> Iterator[pa.Table]:
        table = read_table(inputs[unit["input"]], unit["name"], unit["sha256"], ROW_SCHEMA.names)
        rows = table.take(pa.array(unit["rows"], pa.int64()))
        split = [unit["split"]] * rows.num_rows
        yield (
            rows.append_column("partition", pa.array(unit["shard"], pa.int32()))
            .append_column("split", pa.array(split, pa.string()))
            .append_column("place", pa.array(unit["place"], pa.int32()))
        )

    return read


def partition_writer(output: Store) -> Write:
    """Writes one shard of both splits from its rows, in whatever order they arrive."""

    def write(shard: int, rows: pa.Table) -> Report:
        report: Report = {"files": {}}
        for split in SPLITS:
            chosen = rows.filter(pc.field("split") == split).sort_by("place")
            if chosen.num_rows:
                _put(
                    output, _shard_name(split, shard), chosen.select(ROW_SCHEMA.names).cast(ROW_SCHEMA), report["files"]
                )
        return report

    return write


def _shard_name(split: str, number: int) -> str:
    return f"{split}/shard-{number:05d}.parquet"


def _put(output: Store, name: str, table: pa.Table, files: dict[str, Any]) -> None:
    file = write_table(output, name, table)
    files[name] = {"sha256": file.sha256, "size": file.size, "rows": file.rows}


def _read_indexes(inputs: Mapping[str, Store], manifests: Mapping[str, Any], split: str) -> Indexes:
    """Raises DataError at damage and where an input is of another version."""
    indexes: Indexes = {}
    for each, manifest in manifests.items():
        name = f"{split}/index.parquet"
        indexes[each] = read_table(inputs[each], name, manifest["files"][name]["sha256"])
        if not indexes[each].schema.equals(INDEX_SCHEMA):
            raise DataError(f"{inputs[each].path(name)} is of another version; build {each} again")
    return indexes


def _told_apart(splits: Mapping[str, Indexes]) -> dict[str, Indexes]:
    """Sources of the same name in several inputs become `INPUT.SOURCE`: their held-out losses are of different rows."""
    found = {(name, each) for indexes in splits.values() for each in indexes for name in _sources(indexes[each])}
    counts = Counter(name for name, _ in found)
    shared = {name for name, count in counts.items() if count > 1}

    def renamed(each: str, index: pa.Table) -> pa.Table:
        names = [f"{each}.{name}" if name in shared else name for name in index["source"].to_pylist()]
        return index.set_column(INDEX_SCHEMA.get_field_index("source"), "source", pa.array(names, pa.string()))

    return {split: {each: renamed(each, indexes[each]) for each in indexes} for split, indexes in splits.items()}


def _sources(index: pa.Table) -> set[str]:
    return {name for name in index["source"].unique().to_pylist() if name is not None}


def _tokens(indexes: Indexes) -> dict[str, Numbers]:
    """Of packed rows, what is computed is what is stored."""
    return {each: index["tokens"].to_numpy().astype(np.int64) for each, index in indexes.items()}


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


def _units(split: str, placement: Placement, indexes: Indexes, manifests: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One for each file of which rows are used: which rows, and where each goes."""
    units: list[dict[str, Any]] = []
    for number, (each, index) in enumerate(indexes.items()):
        mine = np.flatnonzero(placement.input == number)
        files = index["shard"].to_numpy()[placement.place[mine]]
        mine, files = mine[np.argsort(files, kind="stable")], np.sort(files)
        found = np.unique(files)
        firsts, ends = np.searchsorted(files, found), np.searchsorted(files, found, side="right")
        for file, first, end in zip(found.tolist(), firsts, ends, strict=True):
            uses = mine[first:end]
            name = _shard_name(split, file)
            units.append({
                "input": each, "split": split, "name": name, "sha256": manifests[each]["files"][name]["sha256"],
                "rows": index["row"].to_numpy()[placement.place[uses]].tolist(),
                "shard": placement.shard[uses].tolist(), "place": placement.row[uses].tolist(),
            })  # fmt: skip
    return units


def _index_table(placement: Placement, indexes: Indexes) -> pa.Table:
    """INDEX_SCHEMA of the mix: what the inputs' indexes say of the rows, at their new places."""
    firsts = np.cumsum([0, *(index.num_rows for index in indexes.values())])
    rows = pa.concat_tables(indexes.values()).take(pa.array(firsts[placement.input] + placement.place))
    columns = {"shard": placement.shard, "row": placement.row}
    return pa.table(
        {
            name: pa.array(columns[name]).cast(pa.int32()) if name in columns else rows[name]
            for name in INDEX_SCHEMA.names
        },
        schema=INDEX_SCHEMA,
    )


def _summary(
    stage: MixStage,
    together: dict[str, Any],
    rows: Mapping[str, pa.Table],
    choice: Choice,
    tokens: Mapping[str, Numbers],
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
    )


def _split_summary(index: pa.Table, context: int) -> MixedSplit:
    tokens = int(index["tokens"].to_numpy().sum(dtype=np.int64))
    weight = float(index["weight"].to_numpy().sum(dtype=np.float64))
    return MixedSplit(
        index.num_rows, tokens, round(weight), tokens / (index.num_rows * context) if index.num_rows else 0.0
    )


def _unused(uses: Numbers, tokens: Numbers) -> float:
    return 1 - float(tokens[np.unique(uses)].sum() / tokens.sum())


def _write_manifest(reports: list[Report], rows: Mapping[str, pa.Table], output: Store, summary: MixSummary) -> None:
    files: dict[str, Any] = {name: entry for report in reports for name, entry in report["files"].items()}
    written = {name: entry["rows"] for name, entry in files.items()}
    planned = Counter(
        _shard_name(split, shard) for split, index in rows.items() for shard in index["shard"].to_pylist()
    )
    assert written == planned, (written, planned)
    for split, index in rows.items():
        _put(output, f"{split}/index.parquet", index, files)
    output.write_json("manifest.json", {**asdict(summary), "files": files})
