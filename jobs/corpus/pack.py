"""Tokenised documents -> rows of at most `context` tokens, best fit decreasing (Ding et al. 2024, arXiv 2404.10830).

The packing itself is TRL's; this is the only place that knows its private name, and tests/corpus/test_pack.py holds its
behaviour. Every segment keeps the id of its document.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
from trl.data_utils import _pack_bfd

from jobs.corpus.schema import ROW_SCHEMA


def pack(segments: pa.Table, context: int, overflow: Literal["split", "truncate"]) -> pa.Table:
    """Packed rows (ROW_SCHEMA); the same rows in the same order for the same input.

    Args:
        segments: columns input_ids list<int32>, weights list<float32>, document_id int64; one document a row.
        context: most tokens of a row.
        overflow: what happens to a document longer than `context`: cut into pieces, none of which is lost, or cut off.

    The first token of every segment weighs 0 in the result, also where a piece starts inside a document: nothing before
    it is seen.
    """
    if segments.num_rows == 0:
        return ROW_SCHEMA.empty_table()
    segments = segments.combine_chunks()
    lengths = np.diff(segments["input_ids"].chunk(0).offsets.to_numpy())
    owners = np.repeat(segments["document_id"].to_numpy(), lengths)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    tokens = pa.table(
        {
            "input_ids": segments["input_ids"].chunk(0),
            "weights": segments["weights"].chunk(0),
            # One id a token, so that TRL's cutting and reordering carries it along.
            "owners": pa.ListArray.from_arrays(offsets, pa.array(owners)),
        }
    )
    packed = _pack_bfd(tokens, context, overflow).combine_chunks()
    return _rows(packed)


def _rows(packed: pa.Table) -> pa.Table:
    seq_lengths, weight_lists = packed["seq_lengths"].chunk(0), packed["weights"].chunk(0)
    segment_lengths = seq_lengths.flatten().to_numpy()
    starts = np.concatenate([[0], np.cumsum(segment_lengths)[:-1]]).astype(np.int64)
    weights = weight_lists.flatten().to_numpy().copy()
    weights[starts] = 0
    owners = packed["owners"].chunk(0).flatten().to_numpy()[starts]
    row_offsets = _offsets(weight_lists)
    segment_offsets = _offsets(seq_lengths)
    return pa.table(
        {
            "input_ids": packed["input_ids"].chunk(0).cast(ROW_SCHEMA.field("input_ids").type),
            "weights": pa.ListArray.from_arrays(row_offsets, pa.array(weights)),
            "segment_lengths": pa.ListArray.from_arrays(segment_offsets, pa.array(segment_lengths, pa.int32())),
            "document_ids": pa.ListArray.from_arrays(segment_offsets, pa.array(owners, pa.int64())),
        },
        schema=ROW_SCHEMA,
    )


def _offsets(lists: pa.ListArray) -> pa.Array:
    """Offsets that start at 0, whatever slice of its values the list array is."""
    offsets = lists.offsets.to_numpy()
    return pa.array(offsets - offsets[0], pa.int32())
