"""Which rows of several sources make a mix with given shares of the tokens, and where they lie in it: pure functions.

    tokens of every row, by input --scarcest for its share whole, of the others so many--> uses of rows, by input
    train:    dealt like cards, so that every shard has every input by its share
    held out: all of them but for the replayed, in an order of which every beginning has the shares, as long as they last

Which rows are taken is decided by a hash of where they lie in the input, whose files are decided by content.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """What a mix takes.

    Example:
        Choice(uses={"general": array([7, 2]), "papers": array([1, 0, 1, 0])}, scarcest="papers")
    """

    uses: dict[str, Numbers]
    """By input, in order of the names: places of its rows, once for every use, in the order of a hash."""
    scarcest: str
    """The input of which there is least for its share: it is used whole."""


def choose(
    tokens: Mapping[str, Numbers], fractions: Mapping[str, float], repeat: Mapping[str, int], seed: int
) -> Choice:
    """As many rows as the scarcest input allows; the tokens of every input are within one row (the longest) of its share.

    Args:
        tokens: by input, of each of its rows; at least one row of every input.
        fractions: by input, its share of all tokens; they sum to 1.
        repeat: by input, how often a row may be used; once where it is not named.
    """
    available = {name: int(tokens[name].sum()) * repeat.get(name, 1) for name in fractions}
    scarcest = min(sorted(fractions), key=lambda name: available[name] / fractions[name])
    total = available[scarcest] / fractions[scarcest]
    wanted = {name: min(total * share, available[name]) for name, share in sorted(fractions.items())}
    passes = {name: math.ceil(wanted[name] / tokens[name].sum()) for name in wanted}
    orders = {name: _order(name, len(tokens[name]), passes[name], seed) for name in wanted}
    ends = {name: np.concatenate([[0], np.cumsum(tokens[name][orders[name]])]) for name in wanted}
    longest = max(int(tokens[name].max()) for name in wanted)
    counts = _counts(ends, wanted, fractions, longest)
    return Choice({name: orders[name][: counts[name]] for name in wanted}, scarcest)


def _counts(
    ends: Mapping[str, Numbers], wanted: Mapping[str, float], fractions: Mapping[str, float], longest: int
) -> dict[str, int]:
    """How many uses of each input come nearest to its tokens, without the roundings adding up.

    With the nearest number everywhere, ten inputs that all round up would leave one of nine tenths short by several rows.
    So, where together they are more than half a row off, the one that is most off for its share is rounded the other way. Among
    those that are too large some input has an excess of at least its share of the sum, which is why all stay within a row.

    Args:
        ends: tokens of the first so many uses, from 0 on.
    """
    counts = {name: int(np.argmin(np.abs(ends[name] - wanted[name]))) for name in wanted}
    excess = {name: float(ends[name][counts[name]] - wanted[name]) for name in wanted}
    while abs(sum(excess.values())) > longest / 2:
        sign = 1 if sum(excess.values()) > 0 else -1
        turned = max(wanted, key=lambda name: sign * excess[name] / fractions[name])
        counts[turned] -= sign
        excess[turned] = float(ends[turned][counts[turned]] - wanted[turned])
    return counts


def heldout_uses(
    tokens: Mapping[str, Numbers], fractions: Mapping[str, float], replayed: str | None, seed: int
) -> dict[str, Numbers]:
    """All held-out rows once, but of replayed text no more than its share asks for: it would take their places.

    Args:
        tokens, fractions: as for `choose`; an input may have no held-out rows.
    """
    uses = {name: _order(name, len(tokens[name]), 1, seed) for name in sorted(fractions)}
    if replayed is not None:
        others = sum(int(tokens[name].sum()) for name in fractions if name != replayed)
        most = others * fractions[replayed] / (1 - fractions[replayed])
        before = np.cumsum(tokens[replayed][uses[replayed]]) - tokens[replayed][uses[replayed]]
        uses[replayed] = uses[replayed][before < most]
    return uses


@dataclass(frozen=True)
class Placement:
    """Where the rows of a split lie in the mix; one use a place of each array, in order of shard and row. Shape (R,) each."""

    input: Numbers
    """Place of its name among the inputs in order."""
    place: Numbers
    """Of the row in the input's index."""
    shard: Numbers
    row: Numbers


def dealt(
    uses: Mapping[str, Numbers], tokens: Mapping[str, Numbers], fractions: Mapping[str, float], shards: int
) -> Placement:
    """Rows for training: of every input, shards differ by one row at most, whatever order an epoch reads them in."""
    total = sum(map(len, uses.values()))
    return _placed(uses, tokens, fractions, np.arange(total) % shards)


def in_a_row(
    uses: Mapping[str, Numbers], tokens: Mapping[str, Numbers], fractions: Mapping[str, float], shards: int
) -> Placement:
    """Held-out rows, of which the first so many of the index are measured: shard after shard in their order."""
    total = sum(map(len, uses.values()))
    shard = np.empty(total, np.int64)
    shard[_by_time(uses, tokens, fractions)] = np.arange(total) * shards // max(total, 1)
    return _placed(uses, tokens, fractions, shard)


def _placed(
    uses: Mapping[str, Numbers], tokens: Mapping[str, Numbers], fractions: Mapping[str, float], shard: Numbers
) -> Placement:
    """Args:
    shard: of every use, input after input.
    """
    rank = np.empty(len(shard), np.int64)
    rank[_by_time(uses, tokens, fractions)] = np.arange(len(shard))
    order = np.lexsort((rank, shard))
    inputs = np.repeat(np.arange(len(uses)), [len(places) for places in uses.values()])
    places = np.concatenate([np.empty(0, np.int64), *uses.values()])
    firsts = np.searchsorted(shard[order], shard[order])
    return Placement(inputs[order], places[order], shard[order], np.arange(len(shard)) - firsts)


def _by_time(uses: Mapping[str, Numbers], tokens: Mapping[str, Numbers], fractions: Mapping[str, float]) -> Numbers:
    """The order in which every input has given its share at every time: by the tokens it gave before over its share."""
    times = [
        (np.cumsum(tokens[name][places]) - tokens[name][places]) / fractions[name] for name, places in uses.items()
    ]
    return np.argsort(np.concatenate([np.empty(0), *times]), kind="stable")


def _order(name: str, rows: int, passes: int, seed: int) -> Numbers:
    """All rows in the order of a hash, and again in another one for every pass."""
    starts = [xxhash.xxh64_intdigest(f"{seed} {number} {name}".encode()) for number in range(passes)]
    return np.concatenate([np.argsort(splitmix64(start, rows)) for start in starts])


GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: SplitMix64's step."""


def splitmix64(start: int, count: int) -> NDArray[np.uint64]:
    """The first numbers of SplitMix64 (Steele et al. 2014) from a state of 64 bits, shape (count,): no two are equal, and no
    version of a library changes them, as it may NumPy's permutations."""
    with np.errstate(over="ignore"):
        state = np.uint64(start) + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))
