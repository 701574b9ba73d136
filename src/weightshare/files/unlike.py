"""What differs between the model that a file was saved of and one that it is to be loaded into: sharing, wrappers."""

from collections.abc import Collection, Sequence
from dataclasses import fields

from torch import nn
from torch.optim.swa_utils import AveragedModel

from weightshare.errors import FileError
from weightshare.planning import APPLIED, Plan, applied_plans
from weightshare.sharing import Spec

COUNTER = "n_averaged"
"""What `AveragedModel` calls its count of updates."""
Placed = tuple[str, Plan]
"""A plan with the path of the part that it was applied to."""


def holds(part: nn.Module, plan: Plan) -> bool:
    """Whether a part is shared as a plan says: by the plan itself, or by one whose groups are the same and read alike.

    How slots once got their numbers (a fusion that is done) makes no difference to what is stored and read.
    """
    applied: Sequence[Plan] = part.__dict__.get(APPLIED, ())
    return any(one == plan or (one.groups == plan.groups and one.spec.reads_as(plan.spec)) for one in applied)


def expect_average(path: str, names: Collection[str], model: nn.Module) -> None:
    """Refuse a file of a running average for a model that is none, and the other way round.

    `AveragedModel` holds the model as `module`, so every name differs; it is saved with its counter, which goes on.

    Args:
        path: Of the file.
        names: Of what it holds.
        model: What it is to be loaded into.
    """
    of_average = COUNTER in names and all(name == COUNTER or name.startswith("module.") for name in names)
    average = isinstance(model, AveragedModel)
    if of_average and not average:
        raise FileError(
            f"'{path}' was saved of an AveragedModel, with its count of updates, and {type(model).__name__} is none. "
            "Load it into one, average = AveragedModel(model), and take average.module; or save that alone: "
            "save(average.module, path)."
        )
    if average and COUNTER not in names:
        raise FileError(
            f"'{path}' was saved of a model, and not of an AveragedModel with its count of updates. Load it into "
            "average.module, and set average.n_averaged if the average is to go on."
        )


def unlike(path: str, file: Sequence[Placed], model: nn.Module) -> str:
    """A sentence or two on a shared model whose plans are not those of a file, for a load that failed; else nothing.

    Args:
        path: Of the file.
        file: Its plans.
        model: As it was before.
    """
    there = list(applied_plans(model))
    if not there or (len(there) == len(file) and all(holds(model.get_submodule(at), plan) for at, plan in file)):
        return ""
    then = "load shares it as the file says" if file else "share it then"
    return (
        f"'{path}' was saved of a model that was not shared as this one is. The file: {_listed(file)}. This model: "
        f"{_listed(there)}. {_difference(file, there)}Load it into a model that is not shared: {then}. What "
        "failed: "
    )


def _listed(plans: Sequence[Placed]) -> str:
    return ", then ".join(f"{plan.heading}{f' in {at!r}' if at else ''}" for at, plan in plans) or "not shared"


def _difference(file: Sequence[Placed], there: Sequence[Placed]) -> str:
    """The first plans that differ, where they are of one kind."""
    for (at, one), (other_at, other) in zip(file, there, strict=False):
        if type(one.spec) is not type(other.spec):
            return ""
        named = [f"{name}, {ours!r} and {theirs!r}" for name, ours, theirs in _fields(one.spec, other.spec)]
        if named:
            return f"They differ in {'; '.join(named)}. "
        if (at, one.where) != (other_at, other.where):
            return "They differ in where. "
        if one.groups != other.groups:
            return "They differ in the weights that they share: those of the file are of other blocks or shapes. "
    return ""


def _fields(one: Spec, other: Spec) -> list[tuple[str, object, object]]:
    names = [field.name for field in fields(one)]  # type: ignore[arg-type]
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in names]
    return [(name, ours, theirs) for name, ours, theirs in pairs if ours != theirs]
