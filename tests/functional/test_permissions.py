"""Permissions: every service and method of the registry, for every kind of caller.

New services are tested too, by the rules in `granted`.
"""

import pytest
import sqlalchemy as sa
from pyramid.config import Configurator
from pyramid.paster import get_app
from webtest import TestApp

from mlapi.models import Base
from mlapi.resources.files import FileItem
from mlapi.schemas.types import UNKNOWN
from mlapi.security import Permission, Use
from mlapi.service import Service
from tests.support import API, HOST, Client, World, is_problem, pipeline_of, services

READ, WRITE, REGISTER, REPORT = Permission
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS", "TRACE", "FOO", "DELETE")
CALLERS = ("nobody", "owner", "another", "admin", "runner", "another's runner")
USERS = ("owner", "another", "admin")
OPEN = {API, f"{API}/auth/token", f"{API}/auth/token/refresh", "/health/live", "/health/ready"}
"""URL templates without authentication."""
LISTS = ("files", "pipelines", "runs", "jobs")

pytestmark = pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD:Warning")


def granted(caller, path):
    """The permissions of a caller at a URL template, or None if the resource is not visible."""
    branch, _, below = path.removeprefix(f"{API}/").partition("/")
    if caller == "admin":
        return {READ, WRITE, REGISTER}
    if branch in LISTS and below:
        return {READ, WRITE} if caller == "owner" else None
    if branch == "workers" or (branch == "queues" and caller not in USERS):
        return None if below else set()
    if branch == "attempts":
        return {READ, REPORT} if caller == "runner" else None
    if branch == "users" and below:
        return {READ, WRITE} if caller == "owner" else None
    return {READ} if caller in USERS else set()


def expected(caller, path, permission):
    """The status with which a method that requires a permission is rejected, or None if it is allowed."""
    if path in OPEN:
        return None if permission else 405
    if caller == "nobody":
        return 401
    has = granted(caller, path)
    if has is None:
        return 404
    return (None if permission in has else 403) if permission else 405


def rows(wsgi):
    """All rows of the database."""
    with wsgi.registry.database.reading() as db:
        return {table.name: sorted(map(repr, db.execute(sa.select(table)))) for table in Base.metadata.tables.values()}


@pytest.fixture
def callers(nobody, ada, bob, root, app, wsgi):
    """The clients of every kind of caller."""

    def at(world, caller):
        another = wsgi.registry.tokens.make(world.keys["attempt"] + 1, Use.JOB, 60)
        known = {"nobody": nobody, "owner": ada, "another": bob, "admin": root, "runner": world.runner}
        return known.get(caller) or Client(app, token=another)

    return at


@pytest.mark.parametrize("caller", CALLERS)
def test_every_service_enforces_its_permission(caller, callers, ada, helloworld, wsgi):
    world, wrong = World(ada, helloworld, wsgi), []
    for service in wsgi.registry.cornice_services.values():
        permissions = {method: args["permission"] for method, _, args in service.definitions}
        before = rows(wsgi)
        refusals = {each: expected(caller, service.path, permissions.get(each)) for each in METHODS}
        for method in sorted(METHODS, key=lambda each: refusals[each] is None):
            answer = callers(world, caller)(method, service.path.format(**world.keys))
            refusal = refusals[method]
            if refusal is None:
                good = answer.status_int == 200 or (
                    method not in ("GET", "HEAD") and answer.status_int in (201, 409, 415, 422)
                )
            else:
                good = answer.status_int == refusal and rows(wsgi) == before
                good = good and ("WWW-Authenticate" in answer.headers) == (refusal == 401)
                allowed = set(answer.headers.get("Allow", "").replace(" ", "").split(",")) - {""}
                good = good and allowed == (set(service.defined_methods) if refusal == 405 else set())
                if method != "HEAD":
                    is_problem(answer, answer.status_int)
            if not good:
                wrong.append((method, service.path, answer.status, refusal))
            if method == "DELETE" and answer.status_int == 200:
                world = World(ada, helloworld, wsgi)
    assert wrong == []


def test_the_test_covers_every_service(wsgi):
    found = services(wsgi, *METHODS)
    assert len({path for _, path, _ in found}) > 25
    assert {method for method, _, _ in found} == {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}


def test_only_the_entry_point_tokens_and_health_need_no_permission(wsgi):
    without = {
        service.path
        for service in wsgi.registry.cornice_services.values()
        for _, _, args in service.definitions
        if args["permission"] not in list(Permission)
    }
    assert without == OPEN


def test_a_view_without_permission_prevents_the_start():
    with pytest.raises(TypeError, match="must name its permission"):
        Service(FileItem).get()(lambda file, request: None)


def test_a_foreign_view_without_permission_is_accessible_to_nobody(ini, root, nobody, wsgi):
    app = get_app(str(ini))
    config = Configurator(registry=app.registry)
    config.add_route("forgotten", "/forgotten")
    config.add_view(lambda request: "secret", route_name="forgotten", renderer="string")
    config.commit()
    try:
        forgotten = TestApp(app, extra_environ={"HTTP_HOST": HOST})
        assert forgotten.get("/forgotten", status=401)
        assert forgotten.get("/forgotten", headers=root.headers, status=403)
    finally:
        app.registry.database.engine.dispose()


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "X-Forwarded-User", "Remote-User", "Via"])
def test_proxy_headers_do_not_authenticate(header, nobody, ada):
    for value in ("127.0.0.1", "root", ada.name):
        is_problem(nobody("GET", "files", headers={header: value}), 401)


def test_headers_do_not_change_the_method(ada, helloworld, wsgi):
    world = World(ada, helloworld, wsgi)
    for header in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        path = f"{API}/users/{{user}}/pipelines/{{pipeline}}/tasks/{{task}}"
        is_problem(world.ask("POST", path, headers={header: "DELETE"}), 405)
        assert world.ask("GET", path, headers={header: "DELETE"}, status=200).json["id"] == world.keys["task"]


@pytest.mark.parametrize("name", ["user", "file", "pipeline", "task", "grid", "run", "job", "attempt"])
def test_another_users_resources_look_like_missing_ones(name, ada, bob, helloworld, wsgi):
    world = World(ada, helloworld, wsgi)
    nothing = "nobody" if name == "user" else 2**40
    for method, path, _ in services(wsgi, *METHODS):
        if f"{{{name}}}" in path:
            foreign = bob(method, path.format(**world.keys))
            missing = bob(method, path.format(**world.keys | {name: nothing}))
            assert (foreign.status, foreign.body) == (missing.status, missing.body), (method, path)
            assert foreign.headerlist == missing.headerlist


@pytest.mark.parametrize("name", ["file", "pipeline", "task", "grid", "run", "job"])
def test_another_users_resources_are_not_found_below_ones_own_url(name, ada, bob, helloworld, wsgi):
    adas, bobs = World(ada, helloworld, wsgi), World(bob, helloworld, wsgi)
    before = rows(wsgi)
    for method, path, _ in services(wsgi, *METHODS):
        if f"{{{name}}}" in path:
            is_problem(
                bob(method, path.format(**bobs.keys | {name: adas.keys[name]})), 404
            ) if method != "HEAD" else None
    assert rows(wsgi) == before


def test_unauthenticated_callers_cannot_tell_whether_a_module_exists(nobody, helloworld):
    there, not_there = nobody("GET", "modules/helloworld"), nobody("GET", "modules/nothing")
    assert (there.status_int, there.body) == (401, not_there.body)


def test_a_body_cannot_set_other_columns(root, helloworld, wsgi):
    world, columns = World(root, helloworld, wsgi), {"is_admin", "approved"}
    columns |= {column.name for table in Base.metadata.tables.values() for column in table.columns}
    before = rows(wsgi)
    for method, path, schema in services(wsgi, *METHODS):
        if schema is not None and schema.body is not None and path not in OPEN and path != f"{API}/users":
            others, named = sorted(columns - {field.name for field in schema.body.children}), []
            for first in range(0, len(others), UNKNOWN):
                body = dict.fromkeys(others[first : first + UNKNOWN], 1)
                errors = is_problem(world.ask(method, path, json=body), 422)["errors"]
                named += [error["name"] for error in errors if error["description"] == "Unknown field."]
            assert sorted(named) == others, (method, path)
    assert rows(wsgi) == before


class TestForeignIdsInBodies:
    """References in bodies and query strings are looked up within the URL, for every caller."""

    @pytest.fixture
    def worlds(self, ada, bob, helloworld, wsgi):
        return World(ada, helloworld, wsgi), World(bob, helloworld, wsgi)

    @pytest.mark.parametrize("asks", ["bob", "root"])
    def test_a_run_accepts_only_files_of_the_pipelines_owner(self, asks, worlds, clients, wsgi):
        adas, bobs = (world.keys for world in worlds)
        before = rows(wsgi)
        url = f"users/bob/pipelines/{bobs['pipeline']}/runs"
        for owner, file in (("ada", adas["file"]), ("bob", adas["file"]), ("ada", bobs["file"])):
            answer = clients(asks)("POST", url, {"files": [f"{API}/users/{owner}/files/{file}"]})
            is_problem(answer, 422, "files.0")
        assert rows(wsgi) == before

    @pytest.mark.parametrize("asks", ["bob", "root"])
    def test_a_task_follows_tasks_of_its_own_pipeline_only(self, asks, worlds, clients, bob, helloworld):
        adas, bobs = (world.keys for world in worlds)
        other, [first] = pipeline_of(bob, {"function": helloworld})
        for task in (
            f"users/ada/pipelines/{adas['pipeline']}/tasks/{adas['task']}",
            f"users/bob/pipelines/{bobs['pipeline']}/tasks/{bobs['task']}",
            f"users/bob/pipelines/{other['id']}/tasks/{bobs['task']}",
            f"users/bob/pipelines/{bobs['pipeline']}/tasks/{first['id']}",
            f"users/ada/pipelines/{other['id']}/tasks/{first['id']}",
        ):
            body = {"function": helloworld, "after": [f"{API}/{task}"]}
            is_problem(clients(asks)("POST", other["tasks"], body), 422, "after")
        assert bob("GET", other["tasks"]).json["items"] == [first]

    @pytest.mark.parametrize("asks", ["bob", "root"])
    def test_the_parent_of_a_file_has_the_same_owner(self, asks, worlds, clients, wsgi):
        adas, bobs = (world.keys for world in worlds)
        before = rows(wsgi)
        for owner, file in (("ada", adas["file"]), ("bob", adas["file"]), ("ada", bobs["file"])):
            fields = {"parent": f"{API}/users/{owner}/files/{file}"}
            is_problem(clients(asks).form("users/bob/files", fields, "file", "x.txt", b"x"), 422, "parent")
        assert rows(wsgi) == before

    @pytest.mark.parametrize(
        ("what", "query"),
        [
            ("files", "owner=ada"),
            ("files", "job={job}"),
            ("files", "sha256={sha256}"),
            ("users/bob/files", "job={job}"),
            ("pipelines", "owner=ada"),
            ("runs", "owner=ada"),
            ("runs", "pipeline={pipeline}"),
            ("jobs", "owner=ada"),
        ],
    )
    def test_a_filter_reveals_nothing_of_other_users(self, what, query, worlds, ada, bob, root):
        hers = worlds[0].keys
        only_hers = ada.upload("hers.txt", b"known to ada alone", status=201).json["sha256"]
        query = query.format(**hers, sha256=only_hers)
        assert bob("GET", f"{what}?{query}", status=200).json["items"] == []


@pytest.mark.parametrize("what", LISTS)
def test_a_flat_list_contains_what_is_visible_to_the_caller(what, ada, bob, root, helloworld, wsgi):
    for owner in (ada, bob, ada, bob):
        World(owner, helloworld, wsgi)
    seen = {}
    for client in (ada, bob, root):
        url, seen[client.name] = f"{what}?limit=1", []
        while url:
            page = client("GET", url, status=200).json
            seen[client.name] += [each["url"] for each in page["items"]]
            url = page["next"]
    for client in (ada, bob):
        assert len(seen[client.name]) == 2
        assert all(f"/users/{client.name}/" in url for url in seen[client.name])
    assert sorted(seen["root"]) == sorted(seen["ada"] + seen["bob"])


def test_users_see_themselves_and_administrators_see_all(ada, bob, root):
    def names(client):
        return [each["name"] for each in client("GET", "users", status=200).json["items"]]

    assert (names(ada), names(bob), sorted(names(root))) == (["ada"], ["bob"], ["ada", "bob", "root"])


def test_a_runner_sees_no_resources_of_its_owner(ada, helloworld, wsgi):
    runner = World(ada, helloworld, wsgi).runner
    for what in (*LISTS, "users", "modules"):
        is_problem(runner("GET", what), 403)
    is_problem(runner("GET", "users/ada"), 404)
