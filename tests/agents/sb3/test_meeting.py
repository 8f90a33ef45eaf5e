"""Threads of compiled code that wait for each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import njit

from agents.sb3.meeting import meet, meet_in_parties


@njit(nogil=True)
def take_part(thread, threads, meeting, rounds, written):
    """Writes in each round and reads what the next thread has written; returns how often that was of another round."""
    wrong = 0
    for number in range(rounds):
        written[thread] = number
        meet(meeting, 2 * number + 1, threads)
        wrong += written[(thread + 1) % threads] != number
        meet(meeting, 2 * number + 2, threads)
    return wrong


@pytest.mark.parametrize("threads", [1, 2, 3])  # more than a small machine has cores, too
def test_behind_a_meeting_each_thread_sees_what_the_others_wrote_before_it(threads):
    meeting, written, rounds = np.zeros(1, np.int64), np.full(threads, -1), 300
    with ThreadPoolExecutor(threads) as pool:
        wrong = list(pool.map(lambda thread: take_part(thread, threads, meeting, rounds, written), range(threads)))
    assert wrong == [0] * threads
    assert meeting[0] == 2 * rounds * threads


@pytest.mark.parametrize("pool", [None, ThreadPoolExecutor(1)], ids=["one thread", "two"])
def test_each_party_has_its_share_and_one_acts_for_all(pool):
    acted = []

    def take_part(party):
        own = party.share("abc")
        party.let_one(lambda: acted.append(own))
        return own, len(acted)

    assert meet_in_parties(take_part, pool) == ([("ac", 1), ("b", 1)] if pool else [("abc", 1)])
    assert acted == ["ac" if pool else "abc"]


@pytest.mark.parametrize("breaking", ["ac", "b"])
def test_where_one_party_breaks_off_the_other_does_not_wait_for_ever(breaking):
    passed = []

    def take_part(party):
        own = party.share("abc")
        party.meet()
        if own == breaking:
            raise KeyboardInterrupt(own)
        party.meet()
        passed.append(own)

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt, match=breaking):
        meet_in_parties(take_part, pool)
    assert passed == ["b" if breaking == "ac" else "ac"]
