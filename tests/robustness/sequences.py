"""A sequence of a soak: a module of the zoo, lines of Python that are run on it, and what must hold after each.

A failed line is printed with those before it that it takes to fail, as a script that runs by itself.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
import math
import random
import re
import traceback
from typing import Any
import warnings

import torch
from torch import nn

from tests import zoo
from tests.contract.banks import folded_ties, generated
from tests.contract.sharing_events import check_like
from tests.contract.trial import Partition, check_close, made, merged, partition
from tests.robustness import acts
from tests.robustness.drawing import Line, View, line
from tests.support import bits, output, state
import weightshare as ws
from weightshare.depth import topology
from weightshare.depth.transform import LoRA, Scale
from weightshare.errors import SharingError, SharingWarning

MODULES = tuple(name for name in zoo.ZOO if name != "lazy")
"""All but the one that cannot be shared before its first batch."""
FEWEST, MOST, MOST_TRIED = 3, 6, 15
"""Lines of a sequence that are done, and how many it may have with those that are refused."""
TIED = "a later plan shares what it is made of"
MAY_BE_REFUSED = {
    "share": "",
    "planned elsewhere": "",
    "stopped": "",
    "train with a hook": "",
    "fold": "Kernels of .* local layers? differ",
    "file": TIED,
    "damaged file": TIED,
}
"""Kinds of lines that an error of ours may end, and what it has to say. The model must be as it was."""
KEEP_OUTPUTS = {
    *("stopped", "refused", "unshare", "fold", "copy", "file", "damaged file", "state", "retie"),
    "two values",
}
"""Kinds after which the model computes the same: to the last bit, but for plans on what another plan's bank stores."""
NAMES: dict[str, Any] = {
    **{name: value for name, value in vars(acts).items() if not name.startswith("_")},
    "ws": ws,
    "zoo": zoo,
    "torch": torch,
    "nn": nn,
    "topology": topology,
    "LoRA": LoRA,
    "Scale": Scale,
}
"""What lines can name."""
SCRIPT = """\
import torch
from torch import nn

from tests import zoo
from tests.robustness.acts import *
import weightshare as ws
from weightshare.depth import topology
from weightshare.depth.transform import LoRA, Scale

torch.manual_seed({seed})
case = zoo.{name}()
{lines}
"""


@dataclass
class Run:
    """A model that goes through everything, beside what it ought to be.

    Args:
        name: Of the module in the zoo.
        seed: Of its numbers.
    """

    name: str
    seed: int
    plans: list[ws.Plan] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        make = zoo.ZOO[self.name]
        self.plain = make().model
        self.paths = _names(self.plain)
        torch.manual_seed(self.seed)
        self.case = make()
        output(self.plain, self.case.example)
        self.apart = self.ties = partition(self.case.model)
        self.stored = _stored(self.case.model)
        self.out = output(self.case.model, self.case.example)

    @property
    def view(self) -> View:
        """What the next line is drawn by."""
        tied = [tie for plan in self.plans for tie in plan.ties if len(tie) > 1]
        return View(self.name, self.case.model, len(self.plans), tied, self.apart)

    def do(self, step: Line) -> bool:
        """Run a line, and check all that must hold after it; whether it was done, and not refused."""
        names = {**NAMES, "case": self.case, "plan": None}
        before = state(self.case.model) if step.kind in MAY_BE_REFUSED else None
        try:
            exec(compile(step.text, "<script>", "exec"), names)
        except SharingError as error:
            if before is None or not re.search(MAY_BE_REFUSED[step.kind], str(error)):
                raise
            assert state(self.case.model) == before, "it was refused, and something has changed"
            self.counts[step.kind, "refused"] += 1
            return False
        self.counts[step.kind, "done"] += 1
        self.case = names["case"]
        rounded = self._on_a_bank()
        self._expect(step.kind, names["plan"])
        self._check(step.kind, rounded)
        return True

    def finish(self) -> None:
        """What is checked once, at the end: the report, an optimizer, and that nothing is left after `unshare_`."""
        said = ws.report(self.case.model)
        groups = len(said.groups) + len(said.codebooks) + len(said.positions)
        assert groups == sum(len(plan.groups) for plan in self.plans)
        assert all(group.intact for group in said.groups)
        assert said.stored == self.stored
        ws.check(torch.optim.SGD(ws.param_groups(self.case.model, weight_decay=0.0), lr=0.1), self.case.model)
        self.do(Line("unshare", "ws.unshare_(case.model)"))

    def _expect(self, kind: str, plan: ws.Plan | None) -> None:
        """What the model has to be after a line of a kind."""
        if plan is not None:
            assert plan.stored_before == self.stored
            self.ties = merged(_within(self.ties, _names(self.case.model)), plan.ties)
            self.stored = plan.stored_after
            self.plans.append(plan)
        if kind == "unshare" and self.plans:
            self.stored = self.plans[0].stored_before
            self.ties, self.plans = self.apart, []
        if kind == "fold":
            self._expect_fold()

    def _expect_fold(self) -> None:
        ties = [tie for plan in self.plans for tie in (*plan.ties, *folded_ties(plan))]
        hard = not any(made(plan) or generated(plan) for plan in self.plans)
        found = partition(self.case.model)
        if not self._on_a_bank():  # else what reads what is a question of two plans
            assert found == _within(merged(self.apart, ties), self.paths)
        if not hard:
            self.stored = _stored(self.case.model)
        self.apart = self.ties = found
        self.plans = []

    def _on_a_bank(self) -> bool:
        """Whether a plan shares what a bank or a decoder of an earlier one stores."""
        return bool({path for plan in self.plans for group in plan.groups for path in group.items} - self.paths)

    def _check(self, kind: str, rounded: bool) -> None:
        model = self.case.model
        assert partition(model) == _within(self.ties, _names(model))
        assert _stored(model) == self.stored
        assert all(tensor.isfinite().all() for tensor in model.parameters())
        if not self.plans:
            check_like(model, self.plain)
        out = output(model, self.case.example)
        if kind in KEEP_OUTPUTS and rounded:  # a bank makes one row at a time for another, and all at once for layers
            check_close({"outputs": out}, {"outputs": self.out})
        elif kind in KEEP_OUTPUTS:
            assert bits(out) == bits(self.out), "the outputs have changed"
        self.out = out


@dataclass(frozen=True)
class Failure:
    """A sequence that broke a promise.

    Args:
        name: Of the module.
        seed: Of the sequence.
        lines: What was run, the last one being what failed.
        error: The traceback.
        where: The kind of error and the function that it came from, by which two failures are the same.
    """

    name: str
    seed: int
    lines: Sequence[Line]
    error: str
    where: tuple[str, str]

    @property
    def script(self) -> str:
        """Python that fails in the same way."""
        return SCRIPT.format(seed=self.seed, name=self.name, lines="\n".join(one.text for one in self.lines))


def sequence(seed: int) -> tuple[str, Counter[tuple[str, str]], Failure | None]:
    """Run the sequence of a seed.

    Returns:
        The name of its module, how many lines of each kind were done and refused, and the failure if there is one,
        with no line more than it takes.
    """
    drawn = random.Random(seed)
    name, length = MODULES[seed % len(MODULES)], drawn.randint(FEWEST, MOST)
    counts: Counter[tuple[str, str]] = Counter()
    lines: list[Line] = []
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=SharingWarning)
            run = Run(name, seed, counts=counts)
            while length and len(lines) < MOST_TRIED:
                lines.append(line(drawn, run.view))
                length -= run.do(lines[-1])
            run.finish()
    except Exception as error:
        return name, counts, _shortest(Failure(name, seed, lines, traceback.format_exc(), _place(error)))
    return name, counts, None


def replayed(name: str, seed: int, lines: Sequence[Line]) -> Failure | None:
    """Run given lines; the failure, if there is one."""
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=SharingWarning)
            run = Run(name, seed)
            for one in lines:
                run.do(one)
            run.finish()
    except Exception as error:
        return Failure(name, seed, lines, traceback.format_exc(), _place(error))
    return None


def _shortest(failure: Failure) -> Failure:
    """The same failure by fewer lines, each left out that it can do without."""
    at = 0
    while at < len(failure.lines):
        fewer = replayed(failure.name, failure.seed, [*failure.lines[:at], *failure.lines[at + 1 :]])
        if fewer is not None and fewer.where == failure.where:
            failure = fewer
        else:
            at += 1
    return failure


def _place(error: BaseException) -> tuple[str, str]:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return type(error).__name__, f"{last.filename.rpartition('/')[2]}:{last.name}"


def _within(ties: Partition, names: set[str]) -> Partition:
    """The ties between names that a model has; those that no tie tells of are apart."""
    known = {part & names for part in ties if part & names}
    return frozenset(known | {frozenset({name}) for name in names.difference(*known)})


def _names(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters(remove_duplicate=False)}


def _stored(model: nn.Module) -> int:
    return sum(math.prod(tensor.shape) for tensor in model.parameters())
