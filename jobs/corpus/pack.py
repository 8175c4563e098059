"""Tokenised documents -> rows of at most `context` tokens.

    documents --cut at the context--> pieces --best fit--> rows --exchange, refill--> fuller rows --gather--> ROW_SCHEMA

Best fit decreasing (Ding et al. 2024, arXiv 2404.10830) looks at one piece at a time, and leaves 1 % of the places empty with
abstracts of 370 tokens in rows of 1,024, 6 % with conversations of about 350. Therefore rows exchange pieces so that the empty
places gather in few of them, which are then packed anew. Few pieces, or pieces of about the same length, find little to exchange:
then the emptiest rows are taken apart with a few others and filled again by exact sums. Every segment keeps its document's id.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.corpus.schema import ROW_SCHEMA

ROUNDS = 16
"""Of exchange. 25,000 abstracts fill 99.8 % of their places instead of 99.0 %, for a hundredth of a millisecond each; twice as
many rounds win less than another 0.1 %."""
OFFERED = 8
"""Pieces of a row that it would part with, by one or two: 36 different sums."""
FILLED = 0.995
"""Share of the places from which on nothing is refilled."""
PASSES = 40
"""Over the emptiest rows: an eighth of a millisecond a row in all."""
EMPTIEST = 16
"""One row in so many is taken apart in a pass."""
PARTNERS = 8
"""Rows it is refilled with: about 25 pieces, whose sums reach nearly every number of tokens."""


@dataclass(frozen=True)
class _Pieces:
    """Stretches of documents, one a place of each array."""

    starts: NDArray[np.int64]
    """Of the piece's first token among all tokens."""
    lengths: NDArray[np.int64]
    owners: NDArray[np.int64]
    """Document ids."""


class _Row(NamedTuple):
    fill: int
    """Tokens."""
    pieces: list[int]


_fill_of = attrgetter("fill")


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
    ids, weights = segments["input_ids"].chunk(0), segments["weights"].chunk(0)
    offsets = ids.offsets.to_numpy().astype(np.int64)
    pieces = _cut(offsets - offsets[0], segments["document_id"].to_numpy(), context, overflow)
    if not len(pieces.lengths):
        return ROW_SCHEMA.empty_table()
    rows = fill_rows(pieces.lengths.tolist(), context)
    order = np.array([piece for row in rows for piece in row], dtype=np.int64)
    lengths = pieces.lengths[order]
    firsts = np.concatenate([[0], np.cumsum(lengths)])
    stretches = [slice(start, start + length) for start, length in zip(pieces.starts[order], lengths, strict=True)]
    kept_ids, kept_weights = (_gathered(values, stretches) for values in (ids, weights))
    kept_weights[firsts[:-1]] = 0
    segment_offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    row_offsets = pa.array(firsts[segment_offsets], pa.int32())
    return pa.table(
        {
            "input_ids": pa.ListArray.from_arrays(row_offsets, pa.array(kept_ids)),
            "weights": pa.ListArray.from_arrays(row_offsets, pa.array(kept_weights)),
            "segment_lengths": _lists(segment_offsets, pa.array(lengths, pa.int32())),
            "document_ids": _lists(segment_offsets, pa.array(pieces.owners[order], pa.int64())),
        },
        schema=ROW_SCHEMA,
    )


def fill_rows(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Which pieces make a row: places in `lengths`, each in exactly one row.

    Args:
        lengths: of the pieces, each from 1 to `context`.
    """
    rows = best = _best_fit(range(len(lengths)), lengths, context)
    fewest = _fewest_rows(lengths, context)
    for number in range(ROUNDS):
        if len(best) == fewest:
            break
        rows = _exchanged(rows, number, lengths, context)
        best = min(best, rows, key=len)
    if len(best) == fewest or sum(lengths) >= FILLED * context * len(best):
        return best
    return _refilled(best, fewest, lengths, context)


def _fewest_rows(lengths: Sequence[int], context: int) -> int:
    """No packing has fewer: all tokens need places, and of pieces over a third of the context a row takes two, and so on."""
    longer = (sum(length * (pieces + 1) > context for length in lengths) / pieces for pieces in range(1, 8))
    return max(math.ceil(rows) for rows in (sum(lengths) / context, *longer))


def _best_fit(pieces: Iterable[int], lengths: Sequence[int], context: int) -> list[list[int]]:
    """The longest piece first, each into the row with the least space that is enough for it."""
    rows: list[list[int]] = []
    spaces: list[tuple[int, int]] = []
    """(space, row), in order."""
    for piece in sorted(pieces, key=lambda piece: (-lengths[piece], piece)):
        assert 0 < lengths[piece] <= context, lengths[piece]
        place = bisect_left(spaces, (lengths[piece], 0))
        if place == len(spaces):
            space, row = context, len(rows)
            rows.append([])
        else:
            space, row = spaces.pop(place)
        rows[row].append(piece)
        insort(spaces, (space - lengths[piece], row))
    return rows


def _exchanged(rows: Sequence[list[int]], number: int, lengths: Sequence[int], context: int) -> list[list[int]]:
    """After one round of exchange, with what is still not full packed anew.

    Args:
        number: of the round.
    """
    full: list[list[int]] = []
    open_rows: list[list[int]] = []
    for row in rows:
        (open_rows if _tokens(row, lengths) < context else full).append(row)
    # As many full ones take part, others in every round: to whom an empty place goes may have what closes it.
    every = max(1, len(full) // (len(open_rows) + 1))
    kept = [row for place, row in enumerate(full) if place % every != number % every]
    closed, left = _exchange(full[number % every :: every], open_rows, lengths, context)
    return [*kept, *closed, *_best_fit(left, lengths, context)]


def _exchange(
    full: Sequence[list[int]], open_rows: Sequence[list[int]], lengths: Sequence[int], context: int
) -> tuple[list[list[int]], list[int]]:
    """Closes one open row after the other: it gets one or two pieces of another row, if possible an open one, for such of its own
    as are shorter by just what it lacks. The other row lacks that then.

    Returns:
        The rows that are full, and the pieces of all that are not.
    """
    rows = [*full, *open_rows]
    lacking = [context - _tokens(row, lengths) for row in rows]
    changes = [0] * len(rows)
    offers: dict[int, list[tuple[int, int, tuple[int, ...]]]] = {}
    """By tokens: (row, its changes so far, pieces), those of open rows last. An offer holds until its row changes."""

    def offer(row: int) -> None:
        for tokens, pieces in _offers(rows[row], lengths):
            offers.setdefault(tokens, []).append((row, changes[row], pieces))

    for row in range(len(rows)):
        offer(row)
    for row in sorted(range(len(full), len(rows)), key=lacking.__getitem__):
        if not lacking[row]:
            continue
        for tokens, mine in _offers(rows[row], lengths):
            found = offers.get(tokens + lacking[row], [])
            while found and changes[found[-1][0]] != found[-1][1]:
                found.pop()
            if not found or found[-1][0] == row:
                continue
            other, _, theirs = found.pop()
            rows[row] = [piece for piece in rows[row] if piece not in mine] + [*theirs]
            rows[other] = [piece for piece in rows[other] if piece not in theirs] + [*mine]
            lacking[row], lacking[other] = 0, lacking[other] + lacking[row]
            changes[row] += 1
            changes[other] += 1
            offer(other)
            break
    closed = [row for row, lack in zip(rows, lacking, strict=True) if not lack]
    return closed, [piece for row, lack in zip(rows, lacking, strict=True) if lack for piece in row]


def _offers(row: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Each one and each two of a row's pieces, with their tokens together."""
    offered = row[:OFFERED]
    yield from ((lengths[piece], (piece,)) for piece in offered)
    yield from ((lengths[one] + lengths[two], (one, two)) for one, two in combinations(offered, 2))


def _refilled(packed: Sequence[list[int]], fewest: int, lengths: Sequence[int], context: int) -> list[list[int]]:
    """The same pieces in rows of which the emptiest were taken apart, a few with others; in as many at most."""
    rows = [_Row(_tokens(row, lengths), row) for row in packed]
    generator = np.random.Generator(np.random.Philox(key=0))
    for _ in range(PASSES):
        if len(rows) == fewest:
            break
        rows.sort(key=_fill_of)
        partners = generator.integers(len(rows), size=(-(-len(rows) // EMPTIEST), PARTNERS)).tolist()
        for emptiest, drawn in enumerate(partners):
            _refill(rows, [emptiest, *sorted({*drawn} - {emptiest})], lengths, context, generator)
        rows = [row for row in rows if row.pieces]
    return [row.pieces for row in rows]


def _refill(
    rows: list[_Row], together: list[int], lengths: Sequence[int], context: int, generator: np.random.Generator
) -> None:
    """Takes some rows apart and fills them again one after the other, each as far as the pieces that are left can fill it.

    The result stays where it gathers the empty places in fewer rows: the sum of squared fills does not fall. A row that is
    not needed any more is left empty.
    """
    pieces = generator.permutation([piece for row in together for piece in rows[row].pieces]).tolist()
    refilled: list[_Row] = []
    while pieces:
        refilled.append(_fullest(pieces, lengths, context))
        taken = set(refilled[-1].pieces)
        pieces = [piece for piece in pieces if piece not in taken]
    if len(refilled) > len(together) or _squares(refilled) < _squares([rows[row] for row in together]):
        return
    # The last of them, which got what was left, goes to the first place: the pass goes on from there.
    for row, new in zip(together, [*refilled[::-1], *[_Row(0, [])] * (len(together) - len(refilled))], strict=True):
        rows[row] = new


def _fullest(pieces: Sequence[int], lengths: Sequence[int], context: int) -> _Row:
    """Pieces whose lengths have the largest sum that is at most `context`; the first such ones."""
    inside, full = (1 << (context + 1)) - 1, 1 << context
    now = 1
    reached = [now]
    """After each piece: bit s is set where some of those so far sum to s."""
    for piece in pieces:
        if now >= full:
            break
        now |= (now << lengths[piece]) & inside
        reached.append(now)
    fill = left = now.bit_length() - 1
    chosen: list[int] = []
    for number in range(len(reached) - 2, -1, -1):
        if not reached[number] >> left & 1:
            chosen.append(pieces[number])
            left -= lengths[pieces[number]]
    return _Row(fill, chosen[::-1])


def _squares(rows: Sequence[_Row]) -> int:
    return sum([row.fill * row.fill for row in rows])


def _tokens(row: Sequence[int], lengths: Sequence[int]) -> int:
    return sum([lengths[piece] for piece in row])


def _cut(offsets: NDArray[np.int64], owners: NDArray[np.int64], context: int, overflow: str) -> _Pieces:
    """Documents as pieces of at most `context` tokens: all of them, or the first of each. Empty documents give none."""
    lengths = np.diff(offsets)
    counts = -(-lengths // context) if overflow == "split" else np.minimum(lengths, 1)
    documents = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = offsets[documents] + number * context
    return _Pieces(starts, np.minimum(context, offsets[documents + 1] - starts), owners[documents])


def _gathered(lists: pa.ListArray, stretches: Sequence[slice]) -> NDArray[Any]:
    """Of all their values one after the other, these."""
    values = lists.flatten().to_numpy()
    return np.concatenate([values[stretch] for stretch in stretches])


def _lists(offsets: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
