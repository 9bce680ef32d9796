"""The environment of `pshell`: `request`, `root`, `db`, `models`, `tm`, and a transaction."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from transaction.interfaces import NoTransaction

from mlapi import models


def setup(env: dict[str, Any]) -> Iterator[None]:
    """Provide the tree, the session and the models; changes are lost unless `tm.commit()` is called."""
    request = env["request"]
    request.method = "POST"  # Only requests that write have a session.
    request.environ["tm.active"] = True
    request.tm.begin()
    env["root"] = env["root_factory"](request) if "root_factory" in env else env["root"]
    env["db"] = request.db
    env["models"] = models
    env["tm"] = request.tm
    try:
        yield
    finally:
        with suppress(NoTransaction):
            request.tm.abort()
