"""Turns of the writers of SQLite: their order, their limit, and their ends."""

import threading

import pytest

from mlapi.turns import Busy, Turns
from tests.processes import wait_for


class Writers:
    """Threads that take a turn, note their number, and end the turn."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.order, self.refused, self.threads = turns, [], [], []

    def start(self, number: int, seconds: float = 60.0) -> None:
        """Start a writer, and wait until it waits or has been refused."""
        waiting = len(self.turns._waiting) + len(self.refused)
        self.threads.append(threading.Thread(target=self._write, args=(number, seconds)))
        self.threads[-1].start()
        wait_for(lambda: len(self.turns._waiting) + len(self.refused) > waiting, "the writer in the queue")

    def _write(self, number: int, seconds: float) -> None:
        try:
            left = self.turns.take(seconds)
        except Busy:
            self.refused.append(number)
        else:
            assert left < seconds
            self.order.append(number)
            self.turns.end()

    def join(self) -> None:
        """Wait for the writers."""
        for thread in self.threads:
            thread.join(timeout=30)
            assert not thread.is_alive()


def test_a_turn_is_taken_at_once_while_nobody_writes():
    turns = Turns(1)
    for _ in range(3):
        assert turns.take(5.0) == 5.0
        turns.end()


def test_writers_write_in_the_order_of_their_arrival():
    writers = Writers(Turns(10))
    writers.turns.take(1.0)
    for number in range(8):
        writers.start(number)
    assert writers.order == []
    writers.turns.end()
    writers.join()
    assert writers.order == list(range(8))


def test_writers_beyond_the_limit_are_refused_while_the_others_wait():
    writers = Writers(Turns(3))
    writers.turns.take(1.0)
    for number in range(6):
        writers.start(number)
    wait_for(lambda: len(writers.refused) == 4, "the refusals")
    assert set(writers.refused) == {2, 3, 4, 5}
    with pytest.raises(Busy, match="3 others"):
        writers.turns.take(60.0)
    writers.turns.end()
    writers.join()
    assert writers.order == [0, 1]


def test_a_writer_is_refused_after_its_time_and_leaves_the_queue():
    writers = Writers(Turns(10))
    writers.turns.take(1.0)
    writers.start(0, 0.01)
    wait_for(lambda: writers.refused == [0], "the refusal")
    writers.start(1)
    writers.turns.end()
    writers.join()
    assert writers.order == [1]
    assert writers.turns.take(5.0) == 5.0
