"""The inputs of jobs: chosen by patterns, and checked for every job when it is queued."""

import pytest
import sqlalchemy as sa

from mlapi.models import Job
from tests.functional.test_statements import statements
from tests.races import archive
from tests.support import claimed, is_problem, picky, pipeline_of


@pytest.fixture
def files(ada):
    """The URLs of files of ada."""
    return [ada.upload(name, b"a", status=201).json["url"] for name in ("a.txt", "b.txt", "c.csv.txt")]


@pytest.fixture
def take(root):
    """The URL of a function that takes two files with the type txt."""
    return picky(root)


def jobs_of(client, run):
    return [client("GET", job["url"]).json for job in client("GET", run["jobs"]).json["items"]]


def names_of(client, job):
    return [client("GET", url, status=200).json["name"] for url in job["inputs"]]


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (None, ["x.npz", "y.txt", "z.txt", "x.npz", "w.txt"]),
        (["*"], ["x.npz", "y.txt", "z.txt", "x.npz", "w.txt"]),
        (["*.npz"], ["x.npz", "x.npz"]),
        (["z.*", "[wx].*"], ["x.npz", "z.txt", "x.npz", "w.txt"]),
        (["*.NPZ"], []),
        ([], []),
        ({0: ["y.txt"]}, ["y.txt", "x.npz", "w.txt"]),
        ({0: ["y.txt"], 1: []}, ["y.txt"]),
        ({1: ["w*"]}, ["x.npz", "y.txt", "z.txt", "w.txt"]),
    ],
)
def test_patterns_choose_from_the_outputs_of_the_parents(inputs, names, ada, files, root, app, wsgi):
    any_files = {"function": open_function(root)}
    graph, tasks = pipeline_of(ada, *({**any_files, "after": []} for _ in range(3)))
    urls = [task["url"] for task in tasks]
    chosen = {urls[parent]: globs for parent, globs in inputs.items()} if isinstance(inputs, dict) else inputs
    ada("PATCH", urls[2], {"after": urls[:2], "inputs": chosen}, status=200)
    run = ada("POST", graph["runs"], {"files": files[:1]}, status=201).json
    one, two = claimed(app, wsgi, 2)
    two.finish("x.npz", "w.txt")
    one.finish("x.npz", "y.txt", "z.txt")
    last = jobs_of(ada, run)[2]
    assert (names_of(ada, last), last["status"]) == (names, "QUEUED" if names else "FAILED")


def open_function(root):
    """The URL of a function that takes any files."""
    made = root.form("modules", {"name": "anything"}, "archive", "m.tar", archive(""), status=201)
    return f"{made.json['functions']}/first"


def test_patterns_of_a_first_task_choose_from_the_files_of_the_run(ada, files, helloworld, take):
    body = [{"function": helloworld, "inputs": ["a*"]}, {"function": take, "after": [], "inputs": ["?.txt"]}]
    graph, tasks = pipeline_of(ada, *body, {"function": helloworld, "after": []})
    run = ada("POST", graph["runs"], {"files": files}, status=201).json
    assert [names_of(ada, job) for job in jobs_of(ada, run)] == [
        ["a.txt"],
        ["a.txt", "b.txt"],
        ["a.txt", "b.txt", "c.csv.txt"],
    ]
    ada("PATCH", tasks[1]["url"], {"inputs": ["b*"]}, status=200)
    problem = is_problem(ada("POST", graph["runs"], {"files": files}), 422, "files")
    assert problem["errors"][0]["description"] == "train takes at least 2 file(s), not 1."


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["x.txt", "y.png"], "Not run: 'y.png' does not have a file type of train: txt."),
        (["x.txt"], "Not run: train takes at least 2 file(s), not 1."),
        (["x.txt", "y.txt", "z.txt"], "Not run: train takes at most 2 file(s), not 3."),
    ],
)
def test_a_job_whose_inputs_do_not_fit_fails_before_it_runs(names, reason, ada, files, helloworld, take, app, wsgi):
    graph, _ = pipeline_of(ada, *({"function": url} for url in (helloworld, take, helloworld, helloworld)))
    run = ada("POST", graph["runs"], {"files": files}, status=201).json
    claimed(app, wsgi)[0].finish(*names)
    _, misfit, *later = jobs_of(ada, run)
    assert (misfit["status"], misfit["reason"], misfit["attempt"], misfit["inputs"]) == ("FAILED", reason, 0, [])
    assert misfit["ended"] is not None
    assert [job["status"] for job in later] == ["CANCELLED", "CANCELLED"]
    assert later[0]["reason"] == f"Not run: parent job {misfit['id']} (train) is FAILED."
    assert claimed(app, wsgi) == []
    assert ada("GET", run["url"]).json["status"] == "FAILED"


def test_patterns_make_inputs_fit(ada, files, helloworld, take, app, wsgi):
    graph, _ = pipeline_of(ada, {"function": helloworld}, {"function": take, "inputs": ["*.txt"]})
    run = ada("POST", graph["runs"], {"files": files}, status=201).json
    claimed(app, wsgi)[0].finish("x.txt", "y.png", "z.txt")
    assert names_of(ada, jobs_of(ada, run)[1]) == ["x.txt", "z.txt"]


def test_the_checks_of_many_jobs_execute_as_many_statements_as_those_of_few(
    ada, files, helloworld, take, app, wsgi, db
):
    costs = []
    for number in (1, 20):
        graph, [task] = pipeline_of(ada, {"function": helloworld})
        bodies = [{"function": take}, {"function": take, "inputs": ["?.txt"]}]
        for body in number * bodies:
            ada("POST", graph["tasks"], {**body, "after": [task["url"]]}, status=201)
        run = ada("POST", graph["runs"], {"files": files}, status=201).json
        [runner] = claimed(app, wsgi)
        with statements(wsgi) as seen:
            runner.finish("x.txt", "y.txt", "long.txt")
        costs.append(len(seen))
        counted = sa.select(Job.status, sa.func.count()).where(Job.run_id == run["id"]).group_by(Job.status)
        assert dict(db.execute(counted).all()) == {"FINISHED": 1, "FAILED": number, "QUEUED": number}
        db.rollback()
        claimed(app, wsgi, number)
    assert costs[0] + 1 == costs[1]  # The inputs of one job are copied to all others.
