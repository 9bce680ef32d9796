"""What `pserve`'s shell opens with: `request`, `root`, `db`, `models`, and a begun transaction."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from transaction.interfaces import NoTransaction

from mlapi import models


def setup(env: dict[str, Any]) -> Iterator[None]:
    """Put the tree, the session and the tables at hand; nothing is kept unless `request.tm.commit()` is called."""
    request = env["request"]
    request.method = "POST"  # So that the session is one that writes, joined to the transaction.
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
