"""Which rank is named when a step does not end."""

import threading

from jobs.train.liveness import SILENT_S, Beat, Heard, Heart, slow_ranks


def heard(rank: int, step: int, phase: str, ago_s: float = 1.0) -> Heard:
    return Heard(Beat(rank, f"node{rank}", 100 + rank, step, phase), ago_s)


def test_a_frozen_rank_is_named_before_all_others() -> None:
    ranks = [heard(0, 7, "computing"), heard(1, 7, "computing", SILENT_S + 30), heard(2, 7, "reading")]
    assert slow_ranks(ranks) == (
        "waiting for rank 1 on node1 (pid 101) (silent for 50 s): its process is frozen, or its host is overloaded or cut off"
    )


def test_the_rank_that_has_not_come_as_far_is_named() -> None:
    sentence = slow_ranks([heard(0, 7, "computing"), heard(1, 7, "reading"), heard(2, 7, "updating")])
    assert sentence.startswith("waiting for rank 1 on node1 (pid 101), still reading in step 7")
    assert "rank 2" in slow_ranks([heard(0, 8, "reading"), heard(1, 8, "reading"), heard(2, 7, "saving")])


def test_ranks_in_one_place_and_no_ranks_are_said_so() -> None:
    assert slow_ranks([heard(0, 0, "loading"), heard(1, 0, "loading")]).startswith("all 2 ranks are loading in step 0")
    assert "ray status" in slow_ranks([])


def test_a_heart_beats_where_its_rank_is() -> None:
    beats: list[Beat] = []
    arrived = threading.Event()

    def send(beat: Beat) -> None:
        beats.append(beat)
        arrived.set()

    heart = Heart(3, send)
    assert arrived.wait(5)
    heart.stop()
    assert (beats[0].rank, beats[0].step, beats[0].phase) == (3, 0, "loading")
