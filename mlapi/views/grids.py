"""Grids: list, show, cancel, delete; a run with `grid` starts one."""

from mlapi.http.request import Request
from mlapi.models.deletion import delete_grid
from mlapi.models.runs import cancel_grid
from mlapi.resources.grids import GridCancel, GridDocument, GridItem, GridRuns, Grids
from mlapi.security import Permission
from mlapi.service import Service
from mlapi.views import answers

grids, grid, grid_runs, grid_cancel = Service(Grids), Service(GridItem), Service(GridRuns), Service(GridCancel)

grids.get(permission=Permission.READ, schema=answers.listing(Grids))(answers.page)
grid.get(permission=Permission.READ)(answers.show)
grid_runs.get(permission=Permission.READ, schema=answers.listing(GridRuns))(answers.page)


@grid.delete(permission=Permission.WRITE)
def delete(grid: GridItem, request: Request) -> answers.Deletion:
    """Delete a grid with its runs, which must have ended, their jobs and output files."""
    return answers.deletion(**delete_grid(request.db, grid.id, request.settle))


@grid_cancel.post(permission=Permission.WRITE)
def cancel(grid_cancel: GridCancel, request: Request) -> GridDocument:
    """Cancel all jobs of the runs of a grid that have not ended."""
    grid = grid_cancel.item
    cancel_grid(request.db, grid.id)
    return grid.reload().document()
