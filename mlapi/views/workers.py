"""Workers: list, show."""

from mlapi.resources.workers import WorkerItem, Workers
from mlapi.security import Permission
from mlapi.service import Service
from mlapi.views import answers

workers, worker = Service(Workers), Service(WorkerItem)

workers.get(permission=Permission.READ, schema=answers.listing(Workers))(answers.page)
worker.get(permission=Permission.READ)(answers.show)
