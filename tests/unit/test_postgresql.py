"""Outages of PostgreSQL: who may connect, and operations without an answer."""

import psycopg
import pytest

from mlapi import postgresql
from mlapi.postgresql import NoAnswer, Outage, bounded


@pytest.fixture
def outage(monkeypatch):
    """An outage without a pause between attempts."""
    monkeypatch.setattr(postgresql, "PAUSE", 0.0)
    outage = Outage()
    outage.begin()
    return outage


def is_refused(outage):
    try:
        with outage.connecting():
            return False
    except NoAnswer:
        return True


def test_any_number_of_threads_connects_without_an_outage():
    outage = Outage()
    with outage.connecting():
        assert not is_refused(outage)


def test_nothing_connects_directly_after_a_database_did_not_answer():
    outage = Outage()
    outage.begin()
    assert is_refused(outage)


def test_one_attempt_at_a_time_tests_the_database(outage):
    with outage.connecting():
        assert is_refused(outage)
    with outage.connecting():
        assert not is_refused(outage)


@pytest.mark.parametrize("error", [psycopg.errors.ConnectionTimeout, psycopg.OperationalError])
def test_an_attempt_that_fails_does_not_end_the_outage(outage, error):
    with pytest.raises(error), outage.connecting():
        raise error
    with outage.connecting():
        assert is_refused(outage)


def test_an_attempt_that_times_out_begins_an_outage():
    outage = Outage()
    with pytest.raises(psycopg.errors.ConnectionTimeout), outage.connecting():
        raise psycopg.errors.ConnectionTimeout
    assert is_refused(outage)


def operation():
    """An operation that waits for its socket until it is ready four times."""
    heard = 0
    while heard < 4:
        heard += bool((yield "read"))
    return heard


def test_an_operation_continues_while_something_arrives():
    waiting = bounded(operation(), patience=0.0)
    assert next(waiting) == "read"
    assert [waiting.send(1) for _ in range(3)] == ["read"] * 3
    with pytest.raises(StopIteration) as end:
        waiting.send(1)
    assert end.value.value == 4


def test_an_operation_without_an_answer_fails():
    waiting = bounded(operation(), patience=0.0)
    next(waiting)
    waiting.send(1)
    with pytest.raises(NoAnswer):
        waiting.send(0)


def test_an_operation_waits_within_its_patience():
    waiting = bounded(operation(), patience=1000.0)
    next(waiting)
    assert [waiting.send(0) for _ in range(3)] == ["read"] * 3
