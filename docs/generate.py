"""Generator of docs/settings.md and docs/api.md from the settings table and the registered services.

`python docs/generate.py --check` writes nothing, and exits with status 1 if a page is outdated.
"""

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, is_typeddict

warnings.simplefilter("ignore")


from mlapi import documents, settings
from mlapi.application import make_app

HERE = Path(__file__).parent

SETTINGS = """\
# Settings

A setting is `mlapi.NAME` in the ini file or `MLAPI_NAME` in the environment, which takes precedence. Settings are read
once; the service does not start with an invalid or unknown one. `make docs` generates this page from
`mlapi/settings.py`.

| name | default | meaning |
| --- | --- | --- |
{rows}

Names of the corresponding settings in MLsploit's REST API:

| MLsploit | mlapi |
| --- | --- |
| `MLSPLOIT_API_SECRET_KEY` | `MLAPI_SECRET_KEY` |
| `MLSPLOIT_API_ALLOWED_HOSTS` | `MLAPI_ALLOWED_HOSTS` (by default, this machine only) |
| `MLSPLOIT_API_SCRATCH_DIR` | `MLAPI_SCRATCH_DIR` |
| `MLSPLOIT_API_DB_PATH` | `MLAPI_DATABASE_URL` |
| `MLSPLOIT_API_MEDIA_DIR` | `MLAPI_MEDIA_DIR` |
"""

API = """\
# The API

URLs are paths through the tree of resources in [architecture.md](architecture.md). `make docs` generates this page from
the registered services.

- **Authentication**: send `Authorization: Bearer TOKEN`.
- **Visibility**: resources that are not visible to the caller are not found (404).
- **Request bodies** are `application/json`, except uploads. Values are not coerced: `"3"` is not an integer. Unknown
  fields are errors.
- **Errors** are problem documents (RFC 9457, `application/problem+json`) with `type`, `title`, `status` and `detail`.
  For 422, `errors` lists the `location`, `name` and `description` of all errors, at most 100; if there are more, the
  last one has their number.
- **Lists** are paginated: a page has `items` and `next`, the URL of the next page or null. `limit` is at most 200, by
  default 50; a page that reaches `page_limit` bytes has fewer items. Lists are ordered newest first, except tasks, the
  jobs of a run, and functions.
- **References** to resources are URLs. In requests, the path is sufficient.
- **Times** are RFC 3339 in UTC. **Ids** are integers and never reused.

| status | meaning |
| --- | --- |
| 400 | malformed request: head, JSON, form or URL; more than 100 query parameters; host not allowed |
| 401 | authentication required, or invalid token |
| 403 | permission denied |
| 404 | not found, or not visible to the caller |
| 405 | method not allowed; `Allow` lists the allowed methods |
| 409 | conflict with the current state; the problem describes it |
| 413 | request body too large; decided by the head of the request, before a large body is sent |
| 415 | unsupported media type |
| 416 | range not satisfiable |
| 422 | validation failed |
| 431 | head of the request larger than 32 KiB |
| 500 | internal error, with an `incident` number to report |
| 501 | transfer coding other than `chunked` |
| 503 | database unavailable, too much slow work, or a part not ready; `Retry-After` is the number of seconds to wait |
| 507 | no space left on the storage device |

With an `Idempotency-Key`, starting a run or a grid can be repeated safely: the same request with the same key returns
the existing one with status 200; another request with this key is a conflict.

## How jobs are executed

A task has these fields, and a run can change them. Null leaves them to the queue, then to the settings of the service.

| field | value |
| --- | --- |
| `queue` | URL of a queue; by default `default` |
| `timeout` | seconds for the download, the function and the delivery each, at most `job_timeout_limit` |
| `attempts` | number of failures after which the job fails, 1 to 100 |
| `priority` | -100 to 100; within a queue, jobs with a higher one come first, then older ones |
| `resources` | object of `cpus` (number), `memory` (bytes) and `gpus` |
| `inputs` | patterns of file names, of at most 100 characters with 10 asterisks, 1,000 in a list: a list\
 for all parents, such as `["*.npz"]`, or an object of lists by the URLs of \
parent tasks, such as `{{"…/tasks/7": ["model.*"]}}`; a parent that is not named gives all its files, one with `[]` \
none |
| `retry_on` | list of exit codes from 1 to 255, `"worker_lost"` and `"timeout"`; a signal is 128 and its number |
| `reuse` | whether an equal job that has finished answers |

`queue`, `priority` and `reuse` in the body of a run apply to all its jobs, and take precedence over the fields of the
tasks. `tasks` changes single tasks, and takes precedence over both, as does `jobs` of a rerun, by position:
`[{{"task": URL, "arguments": {{"epsilon": 0.1}}, "timeout": 60}}]`. The arguments and resources are merged
with those of the task; other fields replace them. Null in a run is the value of a job of which neither the task nor
the run says anything: that of the queue, then of the settings. The `changes` of the run show them by position.

`grid` starts a run for each combination of values, at most 1,000 runs and 20,000 jobs, and the response is the grid:
`[{{"tasks": [URL], "option": "epsilon", "values": [0.1, 0.2]}}]`. All tasks of an axis have the same value in a run.

`depends_on` is a list of URLs of jobs and runs of the same owner. The first jobs of the run wait until all of them are
FINISHED, and are CANCELLED, with the reason, if one of them fails or is cancelled; the run of a failed or cancelled job
is refused (409). Later, `depends_on` of a job shows the jobs for which it waited.

`warnings` of a run are the reasons for which its queued jobs do not start, at most 20: no scheduler is running, no
worker serves their queue or has their resources, or the limit of the queue is reached. They are no errors: the jobs
wait.

The files of a job are checked when it is queued. If its function does not accept their types or their number, the job
is FAILED with the reason before it runs; for the first tasks, the run is not started (422).

**Retries.** `POST …/jobs/{{job}}/retry` makes a FAILED or CANCELLED job PENDING again, with a new count of failures,
and with it all CANCELLED jobs that follow it, also in runs that depend on it, even if a user had cancelled them.
`POST …/runs/{{run}}/retry` does so for all FAILED and CANCELLED jobs of an ended run; FINISHED ones keep their
results. `POST …/runs/{{run}}/rerun` starts a new run of the same functions, arguments and graph. Its body can have
other `files`, and `jobs` with changes by position:
`[{{"position": 2, "arguments": {{"epsilon": 0.2}}, "queue": URL, "reuse": false}}]`.

**Following.** `…/events?after=N` lists what has happened after the event with `number` N; `next` leads to the next page
and is null at the end: ask again with the last `number`. `…/metrics?name=loss&after=N` lists the points after the one
with `number` N in the same way. `Range: bytes=N-` reads a log from byte N, with 416 while there is nothing new.

{services}
## Documents

Documents in responses. Members are always present; some can be null.

{documents}"""


def of_settings() -> str:
    """The page of settings."""
    rows = "\n".join(
        f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |" for name, default, meaning in settings.rows()
    )
    return SETTINGS.format(rows=rows)


def of_api() -> str:
    """The page of services and documents, in the order of the tree."""
    with tempfile.TemporaryDirectory() as folder:
        app = make_app({"mlapi.data_dir": folder})
    services = app.registry.cornice_services
    paths = [path for tree in app.registry.trees for node in tree.places for path in tree.paths(node)]
    found = [services[path] for path in paths if path in services]
    return API.format(services="\n".join(map(section, found)), documents=of_documents(found))


def answers(service: Any) -> Iterator[tuple[str, Any]]:
    """The methods of a service, with the types of the documents that they return."""
    for method, view, _ in service.definitions:
        if method != "HEAD":
            yield method, documents.answer_of(view, service.context)


def of_documents(services: list[Any]) -> str:
    """The sections of all documents, by name."""
    answered = (document for service in services for _, document in answers(service))
    found = {each.__name__: each for document in answered for each in documents.nested(document) if is_typeddict(each)}
    return "\n".join(of_document(found[name]) for name in sorted(found))


def of_document(document: Any) -> str:
    """The section of a document: its members and their types."""
    rows = [f"| `{name}` | {documents.type_name(hint)} |" for name, hint in documents.members(document).items()]
    head = f"### {document.__name__}\n\n{document.__doc__.partition(chr(10))[0]}\n\n| member | type |\n| --- | --- |"
    return "\n".join([head, *rows, ""])


def section(service: Any) -> str:
    """The section of a service."""
    lines = [f"## `{service.path}`\n", f"{service.context.__doc__.partition(chr(10))[0]}\n"]
    lines += ["| method | permission | description | response |", "| --- | --- | --- | --- |"]
    fields = []
    types = dict(answers(service))
    for method, view, args in service.definitions:
        if method == "HEAD":
            continue
        permission = str(args["permission"])
        permission = "none" if permission.startswith("__no") else permission
        answer = "bytes" if types[method] is None else documents.type_name(types[method])
        lines.append(f"| {method} | {permission} | {view.__doc__.partition(chr(10))[0]} | {answer} |")
        if schema := args.get("schema"):
            parts = {where: getattr(schema, where) for where in ("query", "headers", "body")}
            fields += [of_schema(method, where, part) for where, part in parts.items()]
            fields.append(of_form(method, schema.form))
            fields.append(f"{method} body: bytes\n" if schema.raw else "")
    return "\n".join([*lines, "", *filter(None, fields)])


def of_schema(method: str, where: str, schema: Any) -> str:
    """The fields of a body, query string or header, with required fields in bold."""
    if schema is None or not schema.children:
        return ""
    names = [f"**{node.name}**" if node.required else node.name for node in schema.children]
    return f"{method} {where}: {', '.join(names)}\n"


def of_form(method: str, expected: Any) -> str:
    """The fields of a form, files first."""
    if expected is None:
        return ""
    files = " or ".join(f"**{name}**" for name in sorted(expected.form.files))
    fields = [f"**{node.name}**" if node.required else node.name for node in expected.schema.children]
    return f"{method} form ({', '.join(expected.form.media_types)}): {', '.join([f'{files} (file)', *fields])}\n"


def main() -> int:
    """Write the pages, or with --check, compare them."""
    stale = []
    for name, text in (("settings.md", of_settings()), ("api.md", of_api())):
        page = HERE / name
        if "--check" not in sys.argv:
            page.write_text(text)
        elif page.read_text() != text:
            stale.append(name)
    if stale:
        print(f"Outdated: {', '.join(stale)}. Run `make docs`.")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
