"""Writes docs/settings.md and docs/api.md from the settings table and the registered services.

`python docs/generate.py --check` writes nothing and exits with 1 where they are not in step.
"""

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, is_typeddict

warnings.simplefilter("ignore")


import mlapi
from mlapi import documents, settings

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

Every URL is a walk through the tree that [architecture.md](architecture.md) draws. This page is written by `make docs`
from the registered services.

- **Who you are**: `Authorization: Bearer TOKEN`. What you may not see does not exist (404); what you may see and not do
  is 403; who has not said who he is gets 401.
- **Bodies** are `application/json`, files excepted. They are taken at their word: `"3"` is no integer, and an unknown
  field is an error.
- **Errors** are problem documents (RFC 9457, `application/problem+json`): `type`, `title`, `status`, `detail` and, for
  422, `errors`, a list of `location`, `name` and `description` for everything that is wrong.
- **Lists** are pages: `items` and `next`, the URL of the next page or null. `limit` is up to 200, 50 unless given. They
  are newest first; tasks, the jobs of a run, functions and versions' functions are in their own order.
- **References** to other resources are URLs, in answers and in bodies; a body may give the path alone.
- **Times** are RFC 3339 in UTC. **Ids** are integers and never given again.

| status | when |
| --- | --- |
| 400 | the request cannot be read: no JSON, a URL that is not UTF-8, a broken form, a host that is not ours |
| 401, 403, 404 | see above |
| 405, 415, 413 | wrong method (`Allow` says which are right), wrong content type, too large |
| 409 | it does not fit the present state; the problem says what stands in the way |
| 422 | it can be read and is not valid |
| 503, 507 | the database is busy (`Retry-After` says when to try again), there is no room left |

`Idempotency-Key` on the start of a run makes it safe to repeat: the same key again answers 200 with the same run.

{services}
## Documents

What services answer with. A `Page` has `items` and `next`; a member that may be null always stands there.

{documents}"""


def of_settings() -> str:
    """The page of the settings."""
    rows = "\n".join(
        f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |" for name, default, meaning in settings.rows()
    )
    return SETTINGS.format(rows=rows)


def of_api() -> str:
    """The page of the services, in the order of the tree."""
    with tempfile.TemporaryDirectory() as folder:
        app = mlapi.main({}, **{"mlapi.data_dir": folder})
    services = app.registry.cornice_services
    paths = [path for tree in app.registry.trees for node in tree.places for path in tree.paths(node)]
    found = [services[path] for path in paths if path in services]
    return API.format(services="\n".join(map(section, found)), documents=of_documents(found))


def answers(service: Any) -> Iterator[tuple[str, Any]]:
    """The type of what each method of a service answers with."""
    for method, view, _ in service.definitions:
        if method != "HEAD":
            yield method, documents.answer_of(view, service.context)


def of_documents(services: list[Any]) -> str:
    """The documents of all answers, each once, by name."""
    answered = (document for service in services for _, document in answers(service))
    found = {each.__name__: each for document in answered for each in documents.nested(document) if is_typeddict(each)}
    return "\n".join(of_document(found[name]) for name in sorted(found))


def of_document(document: Any) -> str:
    """The members of a document, with their types."""
    rows = [f"| `{name}` | {documents.type_name(hint)} |" for name, hint in documents.members(document).items()]
    head = f"### {document.__name__}\n\n{document.__doc__.partition(chr(10))[0]}\n\n| member | type |\n| --- | --- |"
    return "\n".join([head, *rows, ""])


def section(service: Any) -> str:
    """What can be done at one place."""
    lines = [f"## `{service.path}`\n", f"{service.context.__doc__.partition(chr(10))[0]}\n"]
    lines += ["| method | permission | what it does | answers with |", "| --- | --- | --- | --- |"]
    fields = []
    types = dict(answers(service))
    for method, view, args in service.definitions:
        if method == "HEAD":
            continue
        permission = str(args["permission"])
        permission = "anybody" if permission.startswith("__no") else permission
        answer = "bytes" if types[method] is None else documents.type_name(types[method])
        lines.append(f"| {method} | {permission} | {view.__doc__.partition(chr(10))[0]} | {answer} |")
        if schema := args.get("schema"):
            parts = {where: getattr(schema, where) for where in ("query", "headers", "body")}
            fields += [of_schema(method, where, part) for where, part in parts.items()]
            fields.append(of_form(method, schema.form))
            fields.append(f"{method} body: bytes\n" if schema.raw else "")
    return "\n".join([*lines, "", *filter(None, fields)])


def of_schema(method: str, where: str, schema: Any) -> str:
    """The fields of a body or query string, the required ones in bold."""
    if schema is None or not schema.children:
        return ""
    names = [f"**{node.name}**" if node.required else node.name for node in schema.children]
    return f"{method} {where}: {', '.join(names)}\n"


def of_form(method: str, expected: Any) -> str:
    """The fields of a form, the files first."""
    if expected is None:
        return ""
    files = " or ".join(f"**{name}**" for name in sorted(expected.form.files))
    fields = [f"**{node.name}**" if node.required else node.name for node in expected.schema.children]
    return f"{method} form ({', '.join(expected.form.media_types)}): {', '.join([f'{files} (file)', *fields])}\n"


def main() -> int:
    """Write the pages, or hold them against what would be written."""
    stale = []
    for name, text in (("settings.md", of_settings()), ("api.md", of_api())):
        page = HERE / name
        if "--check" not in sys.argv:
            page.write_text(text)
        elif page.read_text() != text:
            stale.append(name)
    if stale:
        print(f"Not in step with the code: {', '.join(stale)}. Run `make docs`.")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
