"""Threads of compiled code that wait for each other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from numba import njit

from agents.sb3.meeting import meet, meet_in_parties

ENOUGH = 2**62


@contextmanager
def limited(meetings):
    """Lets go after a while who would wait for ever, and fails then."""
    timer = threading.Timer(30, lambda: [meeting.fill(ENOUGH) for meeting in meetings])
    timer.start()
    yield
    assert timer.is_alive()
    timer.cancel()


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
    with limited([meeting]), ThreadPoolExecutor(threads) as pool:
        wrong = list(pool.map(lambda thread: take_part(thread, threads, meeting, rounds, written), range(threads)))
    assert wrong == [0] * threads
    assert meeting[0] == 2 * rounds * threads


@pytest.mark.parametrize("pool", [None, ThreadPoolExecutor(1)], ids=["one thread", "two"])
def test_each_party_has_its_share_and_one_acts_for_all(pool):
    acted, meetings = [], []

    def take_part(party):
        meetings.append(party._meeting)
        own = party.share("abc")
        party.let_one(lambda: acted.append(own))
        return own, len(acted)

    with limited(meetings):
        assert meet_in_parties(take_part, pool) == ([("ac", 1), ("b", 1)] if pool else [("abc", 1)])
    assert acted == ["ac" if pool else "abc"]


@pytest.mark.parametrize("breaking", ["ac", "b"])
def test_where_one_party_breaks_off_so_does_the_other_at_its_next_meeting(breaking):
    passed, meetings = [], []

    def take_part(party):
        meetings.append(party._meeting)
        own = party.share("abc")
        party.meet()
        if own == breaking:
            raise KeyboardInterrupt(own)
        party.meet()
        passed.append(own)

    with limited(meetings), ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt, match=breaking):
        meet_in_parties(take_part, pool)
    assert passed == []


def test_a_party_whose_first_never_comes_is_let_go():
    class Interrupted(ThreadPoolExecutor):
        def submit(self, *args):
            self.submitted = super().submit(*args)
            raise KeyboardInterrupt

    meetings = []

    def take_part(party):
        meetings.append(party._meeting)
        party.meet()

    with limited(meetings), Interrupted(1) as pool:
        with pytest.raises(KeyboardInterrupt):
            meet_in_parties(take_part, pool)
        assert pool.submitted.exception(timeout=20) is not None
