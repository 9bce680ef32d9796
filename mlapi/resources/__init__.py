"""The tree: what there is, under which name, and who may touch it.

    /api/v1
    ├── auth/token                    …/refresh
    ├── users/{user}
    │   ├── files/{file}              …/content
    │   └── pipelines/{pipeline}
    │       ├── tasks/{task}
    │       └── runs/{run}            …/cancel
    │           └── jobs/{job}        …/log, …/cancel
    ├── modules/{module}
    │   ├── functions/{function}      of the newest version
    │   └── versions/{version}
    │       └── functions/{function}
    ├── attempts/{attempt}            …/heartbeat, …/log, …/module, …/inputs/{input}, …/outputs, …/report
    └── files, pipelines, runs, jobs  search, of what the caller may see; …/{id} is the same item

`children` of each class says what is under it; URL templates and the SELECT that finds a node come from that.
"""

from pyramid.authorization import Allow
from pyramid.config import Configurator
from pyramid.events import ContextFound
from pyramid.httpexceptions import HTTPNotFound

from mlapi.resources.attempts import Attempts
from mlapi.resources.auth import Auth
from mlapi.resources.files import AllFiles
from mlapi.resources.jobs import AllJobs
from mlapi.resources.modules import Modules
from mlapi.resources.pipelines import AllPipelines
from mlapi.resources.runs import AllRuns
from mlapi.resources.tree import Access, Node, Tree
from mlapi.resources.users import Users
from mlapi.security import Permission


class Version1(Node):
    """The first version of the API."""

    public = True
    children = {
        "auth": Auth,
        "users": Users,
        "modules": Modules,
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
    """The root. Administrators may do everything, but speak for no attempt."""

    public = True
    children = {"api": Api}

    @property
    def __acl__(self) -> list[Access]:
        """Administrators may do everything that users do, and register modules."""
        return [(Allow, "role:admin", (Permission.READ, Permission.WRITE, Permission.REGISTER))]


DOTS = frozenset({".", ".."})
"""Segments of URLs that traversal takes for steps, never for keys."""

TREE = Tree(Root)
"""The tree of this application."""


def load_context(event: ContextFound) -> None:
    """Load the end of a walk; what does not exist, or not for the caller, is not found."""
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
    """Have the walks of requests end with a loaded context."""
    config.set_root_factory(TREE)
    config.add_subscriber(load_context, "pyramid.events.ContextFound")
