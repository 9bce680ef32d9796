"""The entry point of the API links to all collections, without authentication, and shows whether jobs are executed."""

import sqlalchemy as sa

from mlapi.database import Database
from mlapi.models import Worker, workers
from mlapi.models.base import clock
from tests.support import admin, claimed, pipeline_of


def test_every_link_of_the_entry_point_works(nobody, ada):
    entrance = nobody("GET", "/api/v1", status=200).json
    assert entrance.pop("service") == "mlapi"
    assert entrance.pop("version")
    assert entrance.pop("scheduler") is False
    assert {"token", "users", "modules", "queues", "files", "pipelines", "runs", "jobs"} == entrance.keys()
    for name, url in entrance.items():
        assert nobody("GET", url).status_int == (405 if name == "token" else 401)
        assert ada("GET", url).status_int == (405 if name == "token" else 200)


def test_everything_shows_that_no_scheduler_is_running(ini, nobody, ada, helloworld, db, app, wsgi):
    pipeline, _ = pipeline_of(ada, {"function": helloworld}, {"function": helloworld})
    file = ada.upload("a.txt", b"a").json
    run = ada("POST", pipeline["runs"], {"files": [file["url"]]}, status=201).json

    def shown():
        """The reasons in a list and in the single jobs, and the state at the entry point."""
        jobs = ada("GET", f"{run['jobs']}").json["items"]
        assert [ada("GET", job["url"]).json["reason"] for job in jobs] == [job["reason"] for job in jobs]
        return [job["reason"] for job in jobs], nobody("GET", "/api/v1").json["scheduler"]

    first = ada("GET", run["jobs"]).json["items"][0]["id"]
    waits = f"Waits for job {first}."
    assert shown() == (["No scheduler is running.", waits], False)
    assert "Warning: No scheduler is running." in admin(ini, "check").stderr
    workers.beat(db, "tests", "here", "1")
    db.commit()
    assert shown() == ([None, waits], True)
    assert "Warning" not in admin(ini, "check").stderr
    db.execute(sa.update(Worker).values(heartbeat=clock(-workers.WORKER_LIVES)))
    db.commit()
    assert shown() == (["No scheduler is running.", waits], False)

    (runner,) = claimed(app, wsgi)
    assert shown()[0] == [None, waits]
    runner.report("RETURNED", reason="Stopped.", fault=None)
    assert shown()[0] == ["Handed back in attempt 1; queued again. Stopped. No scheduler is running.", waits]


def test_the_entry_point_does_not_need_the_database(nobody, wsgi):
    here, nowhere = wsgi.registry.database, Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    try:
        wsgi.registry.database = nowhere
        entrance = nobody("GET", "/api/v1", status=200).json
    finally:
        wsgi.registry.database = here
        nowhere.engine.dispose()
    assert (entrance["service"], entrance["scheduler"]) == ("mlapi", None)
