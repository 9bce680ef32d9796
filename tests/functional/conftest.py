"""The real service over real sockets, one for each database, shared by the tests of processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Service
from tests.support import new_database


def database_url(request: Any, folder: Path) -> str:
    """URL of a new database of the kind that the fixture's parameter names."""
    if request.param == "postgresql":
        return new_database(request.getfixturevalue("postgresql"))
    return f"sqlite:///{folder}/test.db"


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def shared_service(request: Any, tmp_path_factory: Any) -> Iterator[Service]:
    """A service that serves; tests may kill any part of it."""
    folder = tmp_path_factory.mktemp(f"service-{request.param}")
    service = Service(folder, database_url(request, folder))
    try:
        service.prepare()
        yield service
    finally:
        service.close()


@pytest.fixture
def service(shared_service: Service) -> Iterator[Service]:
    """A service that serves and schedules; afterwards every invariant holds."""
    shared_service.serve()
    if not shared_service.schedulers:
        shared_service.schedule()
    yield shared_service
    assert shared_service.violations() == []
