"""Requests at the same time: no server error, and the data is as if they had come one after the other."""

import random
from collections import Counter

import pytest
import sqlalchemy as sa
from webtest import TestApp

from mlapi import check
from mlapi.errors import Gone
from mlapi.http.request import Request
from mlapi.models import Job
from mlapi.models.base import clock
from mlapi.resources import TREE
from tests.races import STAGES, Place, Races, Scene, at_once, cases, places
from tests.support import Client, pipeline_of, services

SEED = 20261121
SAMPLE = {"DELETE": 15, "POST": 6, "PATCH": 3, "PUT": 1}
"""The number of races in one run of the tests, by the method that interrupts; `make faults` runs all, in parts."""

PARTS = 20
FLAT = ("files", "pipelines", "runs", "jobs")


@pytest.fixture
def races(root, app, wsgi):
    return Races(root, wsgi)


@pytest.fixture
def violations(wsgi):
    """The violations of invariants of the tables; the leases are renewed, because the runners send no heartbeats."""

    def found():
        with wsgi.registry.database.writing.begin() as session:
            session.execute(sa.update(Job).where(Job.lease_until.is_not(None)).values(lease_until=clock(60)))
        with wsgi.registry.database.reading() as db:
            return [*check.of_tables(db), *check.of_database(db)]

    return found


@pytest.fixture
def fresh(wsgi):
    """A client of its own for each request, which can be used in any thread."""
    return lambda client: Client(TestApp(wsgi), client.name, client.headers["Authorization"].split()[1])


def test_every_service_is_raced(wsgi, root, app):
    scene = Scene(root, wsgi, "active")
    found = {path for _, path, _ in services(wsgi, "POST", "PUT", "PATCH", "DELETE")}
    assert found - {place.path for place in places(wsgi)} == {path for path in found if path.split("/")[3] in FLAT}
    for place in places(wsgi):
        if place.method != "DELETE":
            assert scene.ask(place).status_int in (200, 201, 401, 404, 409), place


def test_a_sample_of_all_pairs_of_services_has_no_server_error(races, violations, wsgi):
    chance, found, wrong = random.Random(SEED), cases(wsgi), []
    for method, number in SAMPLE.items():
        writing = [case for case in found if case.other.method == method and case.interrupted.method != "GET"]
        for case in chance.sample(writing, number):
            wrong += races.run(case)
    assert wrong == []
    assert violations() == []


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_pair_of_services_has_a_server_error(part, races, violations, wsgi):
    wrong = []
    for case in cases(wsgi)[part::PARTS]:
        wrong += races.run(case)
    assert wrong == []
    assert violations() == []


def test_tasks_that_are_added_at_once_have_consecutive_positions(ada, helloworld, fresh, violations):
    pipeline, _ = pipeline_of(ada)
    added = at_once([lambda: fresh(ada)("POST", pipeline["tasks"], {"function": helloworld})] * 40)
    assert Counter(answer.status_int for answer in added) == {201: 40}
    assert sorted(answer.json["position"] for answer in added) == list(range(1, 41))
    listed = ada("GET", f"{pipeline['tasks']}?limit=100").json["items"]
    assert [task["position"] for task in listed] == list(range(1, 41))


@pytest.mark.parametrize("stage", STAGES)
def test_of_several_deletions_of_one_resource_exactly_one_succeeds(stage, root, app, wsgi, violations):
    deletions = [place for place in places(wsgi) if place.method == "DELETE" and stage in place.stages]
    assert len(deletions) >= 3
    for place in deletions:
        scene = Scene(root, wsgi, stage)
        statuses = Counter(answer.status_int for answer in at_once([lambda p=place, s=scene: s.ask(p)] * 4, 4))
        expected = [{200: 4}] if place.path.endswith("/lock") else [{200: 1, 404: 3}, {409: 4}]
        assert statuses in expected, place
    assert violations() == []


def test_a_run_that_is_started_at_once_with_one_key_exists_once(ada, helloworld, fresh, violations):
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    file = ada.upload("a.txt", b"a", status=201).json["url"]
    body, key = {"files": [file]}, {"Idempotency-Key": "k"}
    started = at_once([lambda: fresh(ada)("POST", pipeline["runs"], body, headers=key)] * 8)
    assert Counter(answer.status_int for answer in started) == {201: 1, 200: 7}
    assert len({answer.json["url"] for answer in started}) == 1
    assert violations() == []


def test_versions_that_are_registered_at_once_have_consecutive_numbers(root, app, wsgi, violations):
    scene, place = Scene(root, wsgi, "bare"), Place("POST", "/api/v1/modules")
    registered = at_once([lambda: scene.ask(place)] * 4, 4)
    assert {answer.status_int for answer in registered} == {201}
    assert violations() == []


def test_an_item_that_was_deleted_meanwhile_is_gone(ada, wsgi):
    file = ada.upload("a.txt", b"a", status=201).json
    request = Request.blank("/", headers=ada.headers)
    request.registry = wsgi.registry
    item = TREE(request)["api"]["v1"]["files"][str(file["id"])]
    assert item.reload().document()["name"] == "a.txt"
    request.reader.rollback()
    ada("DELETE", file["url"], status=200)
    with pytest.raises(Gone):
        item.reload()
    request.reader.close()
