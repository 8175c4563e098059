"""Whether a sample of a run's data can be learnt from: counts, lengths, and the gates that a run should not pass.

Sample --cut at the context, pack--> DataReport --gates--> sentences that say what is wrong and where
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.corpus.pack import pack
from jobs.corpus.segments import SEGMENT_SCHEMA
from jobs.inspection.sample import WITHOUT_LIMIT, Sample

ALL_MASKED_SHARE = 0.05
"""Gate: above this share of rows without a token to learn the data are not what the config says. Our own choice."""
CUT_SHARE = 0.05
"""Gate: above this share of rows that end at the context a model learns to go on where it should stop. Our own choice."""
PLACES_NAMED = 5

MASKED = ("nothing_learnt", "no_answer", "answer_cut_off", "empty_message", "empty_answer")
"""Reasons of rows in which no token would be learnt."""


@dataclass(frozen=True)
class DataReport:
    """What a shards stage would make of the sample.

    Example:
        DataReport(stage="pairs", rows="preferences", context=512, sampled=300, complete=True,
                   verdicts={"people": {"conversation_preferences": 300}}, ignored={"people": {"id": 300}}, train=294, heldout=6,
                   left_out=0,
                   set_aside={"identical_answers": {"count": 1, "places": ["dpo.json#17"]}}, lengths={"p50": 310, ...},
                   truncated=12, lost_tokens=900, cut_rows={"count": 7, "places": ["dpo.json#3", ...]}, fill=0.61,
                   learnt_tokens=90_000, tokens=180_000, failed=[])
    """

    stage: str
    rows: str
    context: int
    sampled: int
    """Rows that were read, good and bad."""
    complete: bool
    """Whether these are all rows of the sources."""
    verdicts: dict[str, dict[str, int]]
    ignored: dict[str, dict[str, int]]
    """By source, the columns that hold something and are not read, with the rows that have them."""
    train: int
    heldout: int
    left_out: int
    set_aside: dict[str, dict[str, Any]]
    """By reason: how many, and where the first ones are."""
    lengths: dict[str, int]
    """Tokens of a segment (a text, a conversation, a prompt with one answer) before anything is cut: p50, p90, p99, max."""
    truncated: int
    lost_tokens: int
    cut_rows: dict[str, Any]
    """Rows that lose tokens to learn at the context, and with them an answer's end token: how many, and the first places."""
    fill: float
    """Of packed rows; of examples, the share of the context that a segment takes."""
    tokens: int
    """After cutting."""
    learnt_tokens: int
    failed: list[str]
    """The gates that do not hold, for people."""


def check_sample(name: str, sample: Sample) -> DataReport:
    """Counts, lengths and gates of a shards stage."""
    stage = sample.stage
    splits = stage.rows == "text"  # texts are cut into pieces, none of which is lost
    segments = [(row, segment) for row in sample.rows for segment in row.segments if segment.level != -1]
    lengths = np.array([len(segment.input_ids) for _, segment in segments] or [0])
    # Where what is too long is set aside, nothing is cut off.
    cuts = stage.rows not in ("text", "prompts") and stage.too_long == "truncate"
    masked = sorted({row.uri for row, segment in segments if cuts and not any(segment.weights[: stage.context])})
    longer = {
        row.uri for row, segment in segments if not splits and not cuts and len(segment.input_ids) > stage.context
    }
    aside = _set_aside(sample, masked, sorted(longer))
    gone = {*masked, *longer}
    kept = [(row, segment) for row, segment in segments if row.uri not in gone]
    limit = stage.context if cuts else WITHOUT_LIMIT
    over = [max(0, len(segment.input_ids) - limit) for _, segment in kept]
    documents = {row.uri: row.split for row, _ in kept}
    cut = list(dict.fromkeys(row.uri for row, segment in kept if any(segment.weights[limit:])))
    report = DataReport(
        stage=name, rows=stage.rows, context=stage.context,
        sampled=sample.documents.table.num_rows + sample.documents.bad_rows.num_rows,
        complete=sample.documents.complete, verdicts=sample.documents.verdicts,
        ignored=sample.documents.ignored,
        train=list(documents.values()).count("train"), heldout=list(documents.values()).count("heldout"),
        left_out=sample.left_out, set_aside=aside,
        lengths={**{f"p{q}": int(np.percentile(lengths, q, method="higher")) for q in (50, 90, 99)}, "max": int(lengths.max())},
        truncated=sum(map(bool, over)), lost_tokens=sum(over),
        cut_rows={"count": len(cut), "places": cut[:PLACES_NAMED]}, fill=_fill(sample, gone),
        tokens=sum(min(len(segment.input_ids), limit) for _, segment in kept),
        learnt_tokens=sum(sum(map(bool, segment.weights[:limit])) for _, segment in kept), failed=[],
    )  # fmt: skip
    report.failed.extend(gates(report))
    return report


def _set_aside(sample: Sample, masked: list[str], longer: list[str]) -> dict[str, dict[str, Any]]:
    counts: Counter[str] = Counter()
    places: dict[str, list[str]] = {}
    rows = [*sample.documents.bad_rows.to_pylist(), *sample.refused.to_pylist()]
    rows += [{"reason": "answer_cut_off", "uri": uri} for uri in masked]
    rows += [{"reason": "too_long", "uri": uri} for uri in longer]
    for row in rows:
        counts[row["reason"]] += 1
        places.setdefault(row["reason"], []).append(row["uri"])
    return {reason: {"count": counts[reason], "places": places[reason][:PLACES_NAMED]} for reason in sorted(counts)}


def _fill(sample: Sample, gone: set[str]) -> float:
    stage = sample.stage
    rows = [row for row in sample.rows if row.split == "train" and row.uri not in gone]
    segments = [segment for row in rows for segment in row.segments]
    if not segments:
        return 0.0
    if stage.rows not in ("text", "messages"):
        return float(np.mean([min(len(segment.input_ids), stage.context) for segment in segments])) / stage.context
    columns = {
        "input_ids": [segment.input_ids for segment in segments],
        "weights": [segment.weights for segment in segments],
        "document_id": range(len(segments)),
    }
    packed = pack(
        pa.table(columns, schema=SEGMENT_SCHEMA), stage.context, "split" if stage.rows == "text" else "truncate"
    )
    return sum(map(len, packed["input_ids"].to_pylist())) / (packed.num_rows * stage.context)


def gates(report: DataReport) -> list[str]:
    """What should not be trained on, in sentences; empty where all is well."""
    failed = []
    ends = report.set_aside.get("no_end")
    if ends:
        failed.append(
            f"{ends['count']} rows have an answer that the template does not end by an end-of-sequence token "
            f"({', '.join(ends['places'])}); a model trained on them would not stop. Add `eos_token` to the template."
        )
    masked = [report.set_aside[reason] for reason in MASKED if reason in report.set_aside]
    count = sum(found["count"] for found in masked)
    if report.rows != "text" and count > ALL_MASKED_SHARE * max(report.sampled, 1):
        places = [place for found in masked for place in found["places"]][:PLACES_NAMED]
        failed.append(
            f"{count} of {report.sampled} rows have no token to learn ({', '.join(places)}); raise `context` "
            f"({report.context}) where answers are cut off, or mend the rows."
        )
    cut, kept = report.cut_rows, report.train + report.heldout
    if cut["count"] > CUT_SHARE * max(kept, 1):
        failed.append(
            f"{cut['count']} of {kept} rows are cut off at the context ({report.context}) before their end token "
            f"({', '.join(cut['places'])}); a model trained on them would not stop. Raise `context`, or set "
            "`too_long: quarantine`."
        )
    if kept == 0 or (report.rows != "prompts" and report.learnt_tokens == 0):
        read = {name: list(found) for name, found in report.verdicts.items()}
        failed.append(f"nothing is left to learn as `rows: {report.rows}`; the sources were read as {read}.")
    elif report.train == 0:
        read = "" if report.complete else f" of the first {report.sampled}; `--rows` reads more"
        failed.append(
            f"no row is left for training, {report.heldout} are held out{read}. Lower `heldout_fraction`, or give more prompts."
        )
    return failed
