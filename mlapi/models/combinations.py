"""Combinations of values of options: the plans of the runs of a grid."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from mlapi.errors import FieldErrors, Invalid
from mlapi.models.base import JsonObject
from mlapi.models.grids import COMBINATIONS
from mlapi.models.options import check_arguments
from mlapi.models.pipelines import Task
from mlapi.models.plans import Plan


class Axis(NamedTuple):
    """The values that an option of some tasks has in turn; all of these tasks have the same value in a run."""

    tasks: Sequence[int]
    option: str
    values: Sequence[object]

    def as_json(self) -> JsonObject:
        """The axis as it is stored."""
        return {"tasks": list(self.tasks), "option": self.option, "values": list(self.values)}


def check_axes(tasks: Sequence[Task], axes: Sequence[Axis]) -> None:
    """Raise `Invalid` unless the axes name options of these tasks, once each, with values that the options accept."""
    if math.prod(len(axis.values) for axis in axes) > COMBINATIONS:
        raise Invalid.field("grid", f"Must have at most {COMBINATIONS} combinations.")
    errors = FieldErrors()
    known, taken = {task.id: task for task in tasks}, set[tuple[int, str]]()
    for number, axis in enumerate(axes):
        for index, task in enumerate(axis.tasks):
            if task not in known:
                errors.add(f"grid.{number}.tasks.{index}", "Task not found.")
                continue
            if (task, axis.option) in taken:
                errors.add(f"grid.{number}.option", "An option of a task can be in one axis only, once.")
                break
            taken.add((task, axis.option))
            _check_values(errors, known[task], axis, f"grid.{number}")
    errors.raise_all()


def _check_values(errors: FieldErrors, task: Task, axis: Axis, prefix: str) -> None:
    options = [option for option in task.function.signature.options if option.name == axis.option]
    if not options:
        errors.add(f"{prefix}.option", f"{task.function.name} does not have this option.")
        return
    for index, value in enumerate(axis.values):
        if value is None:
            errors.add(f"{prefix}.values.{index}", "Must not be null.")
        elif problem := options[0].problem_with(value):
            errors.add(f"{prefix}.values.{index}", problem)


def combine(
    tasks: Sequence[Task], plans: Sequence[Plan], changes: JsonObject | None, axes: Sequence[Axis]
) -> Iterator[tuple[JsonObject | None, list[Plan]]]:
    """The changes and the plans of each combination, the last axis first; `changes` are those of all combinations."""
    signatures = {task.id: task.function.signature.options for task in tasks}
    before = {cast("int", job["position"]): job for job in cast("list[JsonObject]", (changes or {}).get("jobs", []))}
    for values in itertools.product(*(axis.values for axis in axes)):
        arguments: dict[int, dict[str, object]] = {}
        for axis, value in zip(axes, values, strict=True):
            for task in axis.tasks:
                arguments.setdefault(task, {})[axis.option] = value
        jobs = dict(before)
        combined: list[Plan] = []
        for job in plans:
            own = arguments.get(job["task_id"] or 0)
            if own is None:
                combined.append(job)
                continue
            checked = check_arguments(signatures[job["task_id"] or 0], {**job["arguments"], **own})
            combined.append({**job, "arguments": dict(checked)})
            earlier = jobs.get(job["position"], {"position": job["position"]})
            all_arguments = {**cast("Mapping[str, object]", earlier.get("arguments", {})), **own}
            jobs[job["position"]] = {**earlier, "arguments": all_arguments}
        yield {**(changes or {}), "jobs": [jobs[position] for position in sorted(jobs)]}, combined
