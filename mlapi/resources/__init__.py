"""The tree of resources: their URLs, their contents and their access control lists.

    /api/v1
    ├── auth/token                    …/refresh
    ├── users/{user}
    │   ├── files/{file}              …/content
    │   └── pipelines/{pipeline}
    │       ├── tasks/{task}
    │       ├── grids/{grid}          …/runs, …/cancel
    │       └── runs/{run}            …/cancel, …/retry, …/rerun, …/events
    │           └── jobs/{job}        …/log, …/metrics, …/cancel, …/retry, …/events
    │               └── attempts/{number} …/log, …/metrics
    ├── modules/{module}
    │   ├── functions/{function}      of the newest version
    │   └── versions/{version}
    │       └── functions/{function}
    ├── queues/{queue}                …/lock, …/events
    ├── workers/{worker}
    ├── attempts/{attempt}            …/heartbeat, …/log, …/metrics, …/module, …/inputs/{input}, …/outputs, …/report
    └── files, pipelines, runs, jobs  all that are visible to the caller; …/{id} is the same item

    /health
    └── live, ready                   for probes, without authentication

`children` maps a class to its child classes; URL templates and the SELECTs of items are computed from it.
"""

from pyramid.authorization import Allow
from pyramid.config import Configurator
from pyramid.events import ContextFound
from pyramid.httpexceptions import HTTPNotFound

from mlapi.resources.attempts import Attempts
from mlapi.resources.auth import Auth
from mlapi.resources.files import AllFiles
from mlapi.resources.health import Health
from mlapi.resources.jobs import AllJobs
from mlapi.resources.modules import Modules
from mlapi.resources.pipelines import AllPipelines
from mlapi.resources.queues import Queues
from mlapi.resources.runs import AllRuns
from mlapi.resources.tree import Access, Node, Tree
from mlapi.resources.users import Users
from mlapi.resources.workers import Workers
from mlapi.security import Permission


class Version1(Node):
    """The first version of the API."""

    public = True
    children = {
        "auth": Auth,
        "users": Users,
        "modules": Modules,
        "queues": Queues,
        "workers": Workers,
        "attempts": Attempts,
        "files": AllFiles,
        "pipelines": AllPipelines,
        "runs": AllRuns,
        "jobs": AllJobs,
    }


class Api(Node):
    """The versions of the API."""

    children = {"v1": Version1}


class Root(Node):
    """The root. Administrators have all permissions except `report`."""

    public = True
    children = {"api": Api, "health": Health}

    @property
    def __acl__(self) -> list[Access]:
        """Administrators may read, write and register modules."""
        return [(Allow, "role:admin", (Permission.READ, Permission.WRITE, Permission.REGISTER))]


DOTS = frozenset({".", ".."})
"""URL segments that traversal interprets itself; they are never keys."""

TREE = Tree(Root)
"""The tree of this application."""


def load_context(event: ContextFound) -> None:
    """Load the context of a request; 404 if it does not exist or is not visible to the caller."""
    request, context = event.request, event.request.context
    if isinstance(context, Node):
        if not context.public:
            request.require_identity()
        if not DOTS.isdisjoint((request.matchdict or {}).values()):
            raise HTTPNotFound()
        try:
            context.load()
        except KeyError:
            raise HTTPNotFound() from None


def includeme(config: Configurator) -> None:
    """Set the root factory, and load the context of every request."""
    config.set_root_factory(TREE)
    config.add_subscriber(load_context, "pyramid.events.ContextFound")
