"""The health of the service: whether it answers, and whether each of its parts is ready."""

import sqlalchemy as sa

from mlapi.models import Worker, workers
from mlapi.models.base import clock
from mlapi.models.workers import WORKER_LIVES


def test_a_scheduler_is_heard_of_until_its_heartbeats_end(db):
    assert not workers.heard(db)
    workers.beat(db, "one", "here", "1")
    assert workers.heard(db)
    db.execute(sa.update(Worker).values(heartbeat=clock(-WORKER_LIVES - 1)))
    assert not workers.heard(db)
