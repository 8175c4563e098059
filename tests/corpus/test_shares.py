"""Choosing rows by token share: within a row of what was asked, by content, whatever the number of shards."""

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.corpus.shares import choose, dealt, heldout_uses, in_a_row, splitmix64

CONTEXT = 64


@st.composite
def mixes(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, int], int]:
    """Tokens of rows, shares and repeats of up to eight inputs."""
    names = [f"input_{number}" for number in range(draw(st.integers(1, 8)))]
    rows = st.lists(st.integers(1, CONTEXT), min_size=1, max_size=30)
    parts = {name: draw(st.integers(1, 40)) for name in names}
    return (
        {name: np.array(draw(rows)) for name in names},
        {name: part / sum(parts.values()) for name, part in parts.items()},
        {name: draw(st.integers(1, 3)) for name in names if draw(st.booleans())},
        draw(st.integers(0, 3)),
    )


@given(mixes())
@settings(max_examples=300, deadline=None)
def test_shares_are_within_a_row_and_the_scarcest_is_used_whole(mixed: Any) -> None:
    tokens, fractions, repeat, seed = mixed
    choice = choose(tokens, fractions, repeat, seed)
    used = {name: int(tokens[name][uses].sum()) for name, uses in choice.uses.items()}
    longest = max(int(rows.max()) for rows in tokens.values())
    for name, share in fractions.items():
        assert abs(used[name] - share * sum(used.values())) <= longest + 1e-6
        uses = Counter(choice.uses[name].tolist())
        assert max(uses.values(), default=0) <= repeat.get(name, 1)
        assert max(uses.values(), default=0) - min(uses[place] for place in range(len(tokens[name]))) <= 1
    scarcest = choice.scarcest
    assert Counter(choice.uses[scarcest].tolist()) == dict.fromkeys(
        range(len(tokens[scarcest])), repeat.get(scarcest, 1)
    )


def test_roundings_do_not_add_up() -> None:
    """Twenty inputs of which each would round up by 0.4 rows leave one of 0.9 short by eight rows, were it not for `_counts`."""
    tokens = {"large": np.full(90, 10)} | {f"small_{number:02d}": np.full(99, 10) for number in range(19)}
    fractions = {"large": 0.9} | {f"small_{number:02d}": 0.1 / 19 for number in range(19)}
    # 1,000 tokens in all: 5.263 of each small one, which is nearer to a row of 10 than to none.
    choice = choose(tokens, fractions, {}, 0)
    assert choice.scarcest == "large" and len(choice.uses["large"]) == 90
    assert sum(len(choice.uses[name]) for name in tokens if name != "large") == 10


def test_a_scarce_input_limits_the_mix_and_repeat_mends_it() -> None:
    tokens = {"papers": np.full(10, 50), "general": np.full(100, 50)}
    fractions = {"papers": 0.5, "general": 0.5}
    once = choose(tokens, fractions, {}, 0)
    assert once.scarcest == "papers" and {name: len(uses) for name, uses in once.uses.items()} == {
        "general": 10,
        "papers": 10,
    }
    thrice = choose(tokens, fractions, {"papers": 3}, 0)
    assert Counter(thrice.uses["papers"].tolist()) == dict.fromkeys(range(10), 3)
    assert len(set(thrice.uses["general"].tolist())) == 30
    # A larger mix takes the same rows and more, and another seed takes others.
    assert thrice.uses["general"][:10].tolist() == once.uses["general"].tolist()
    assert set(choose(tokens, fractions, {}, 1).uses["general"].tolist()) != set(once.uses["general"].tolist())


def test_the_hash_is_splitmix64() -> None:
    """The first numbers from 1234567 that Vigna's reference implementation prints."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert splitmix64(1234567, 5).tolist() == known


def placed(placement: Any) -> list[tuple[int, int]]:
    return list(zip(placement.shard.tolist(), placement.row.tolist(), strict=True))


def test_every_shard_has_every_input_by_its_share() -> None:
    tokens = {"a": np.full(64, 10), "b": np.full(31, 10), "c": np.full(5, 10)}
    uses = {name: np.arange(len(rows)) for name, rows in tokens.items()}
    placement = dealt(uses, tokens, {"a": 0.64, "b": 0.31, "c": 0.05}, 4)
    for number, name in enumerate(tokens):
        mine = Counter(placement.shard[placement.input == number].tolist())
        assert sorted(mine.values()) == sorted([-(-(len(tokens[name]) - shard) // 4) for shard in range(4)])
        assert sorted(placement.place[placement.input == number].tolist()) == list(range(len(tokens[name])))
    assert placed(placement) == [(shard, row) for shard in range(4) for row in range(25)]


def test_held_out_rows_begin_by_their_shares_and_replay_takes_no_more_than_its_own() -> None:
    tokens = {"domain": np.full(40, 10), "general": np.full(400, 10), "replay": np.full(1000, 10)}
    fractions = {"domain": 0.6, "general": 0.3, "replay": 0.1}
    uses = heldout_uses(tokens, fractions, "replay", 0)
    assert {name: len(set(rows.tolist())) for name, rows in uses.items()} == {
        "domain": 40,
        "general": 400,
        "replay": 49,
    }
    placement = in_a_row(uses, tokens, fractions, 3)
    assert placed(placement) == [(shard, row) for shard in range(3) for row in range(163)]
    for first in (10, 20, 50):  # the domain lasts for 66 rows
        counts = Counter(placement.input[:first].tolist())
        assert all(abs(counts[number] - share * first) <= 1 for number, share in enumerate(fractions.values())), counts
    alone = heldout_uses(
        {"domain": np.empty(0, int), "replay": np.full(9, 10)}, {"domain": 0.9, "replay": 0.1}, "replay", 0
    )
    assert in_a_row(alone, {"domain": np.empty(0, int), "replay": np.full(9, 10)}, fractions, 2).shard.tolist() == []
