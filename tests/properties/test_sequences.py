"""Any sequence of what users do to a model: after each step the ties are those of the plans, and nothing else moved."""

from collections.abc import Iterator
from contextlib import contextmanager
import copy
from pathlib import Path
import tempfile
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
import pytest
import torch
from torch import nn

from tests.properties.strategies import NETWORKS, Network
from tests.support import bits, output, state
import weightshare as ws
from weightshare import planning
from weightshare.depth import topology
from weightshare.depth.topology import Order, Spread
from weightshare.errors import ModelChanged, SharingError
from weightshare.surgery.sites import sites

ORDERS = st.one_of(st.sampled_from([ws.sequential, ws.strided]), st.integers(0, 9).map(ws.random))
SPREADS = st.sampled_from([ws.uniform, ws.uniform, topology.front, topology.middle, topology.back])
RATES = st.one_of(st.integers(2, 4), st.floats(1, 4))
FACTORS = st.one_of(st.none(), st.lists(st.floats(-1, 1), min_size=7, max_size=7))


class Sequences(RuleBasedStateMachine):
    """A model that goes through everything, beside a list of the ties that it ought to have."""

    @initialize(network=NETWORKS, data=st.data(), rate=RATES, order=ORDERS)
    def start(self, network: Network, data: st.DataObject, rate: float, order: Order) -> None:
        self.network = network
        self.model: nn.Module = network.build().eval()
        self.example = network.example()
        self.planned: list[tuple[str, ...]] = []  # ties of plans that are on the model
        self.plain: list[tuple[str, ...]] = []  # ties that a fold left, which are the model's own from then on
        self.groups = 0
        self.stored = sum(tensor.numel() for tensor in self.model.parameters())
        paths = [path for path, _ in self.model.named_parameters()]
        self.roles = sorted({f"*.{path.partition('.')[2]}" for path in paths})
        self.share(data, rate, order, ws.uniform, None)

    @rule(data=st.data(), rate=RATES, order=ORDERS, spread=SPREADS, factors=FACTORS)
    def share(
        self, data: st.DataObject, rate: float, order: Order, spread: Spread, factors: list[float] | None
    ) -> None:
        """One role, or two, or the rest; what is shared already is refused if named, and left out if not."""
        where = data.draw(st.one_of(st.none(), st.lists(st.sampled_from(self.roles), min_size=1, max_size=2)))
        fuse = ws.mean if factors is None else ws.weighted_mean(factors[: self.network.depth])
        before = state(self.model)
        spec = ws.Tie(rate=min(rate, self.network.depth), order=order, spread=spread, fuse=fuse)
        try:
            plan = ws.plan(self.model, spec, where)
            self.fail_late(plan)
            plan.apply_(self.model)
        except SharingError:
            assert state(self.model) == before
            return
        self.planned += [tie for tie in plan.ties if len(tie) > 1]
        self.groups += len(plan.groups)
        assert plan.stored_before == self.stored
        self.stored = plan.stored_after

    @rule()
    def train(self) -> None:
        optimizer = torch.optim.AdamW(ws.param_groups(self.model, weight_decay=0.01), lr=0.01)
        ws.check(optimizer, self.model)
        before = [tensor.detach().clone() for tensor in self.model.parameters()]
        optimizer.zero_grad()  # `to_empty` leaves gradients that nobody has written
        torch.nn.functional.smooth_l1_loss(self.model(self.example), torch.ones_like(self.example)).backward()
        optimizer.step()
        assert any(not torch.equal(old, new) for old, new in zip(before, self.model.parameters(), strict=True))

    @rule()
    def unshare(self) -> None:
        with self.same_outputs():
            ws.unshare_(self.model)
        self.stored += sum((len(tie) - 1) * self.model.get_parameter(tie[0]).numel() for tie in self.planned)
        self.planned, self.groups = [], 0

    @precondition(lambda self: self.planned)
    @rule(data=st.data())
    def untie_by_hand_and_retie(self, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(self.planned))[-1]
        with self.same_outputs():
            replace(self.model, path, nn.Parameter(self.model.get_parameter(path).detach().clone()))
            with pytest.raises(ModelChanged, match="no longer are"):
                ws.fold(self.model)
            assert ws.retie_(self.model) == [path]

    @rule()
    def copy_deeply(self) -> None:
        before = state(self.model)
        original = self.model
        with self.same_outputs():
            self.model = copy.deepcopy(original)
        assert state(original) == before
        assert {id(t) for t in original.parameters()}.isdisjoint(map(id, self.model.parameters()))

    @rule()
    def fold(self) -> None:
        with self.same_outputs():
            self.model = ws.fold(self.model)
        assert not [key for module in self.model.modules() for key in vars(module) if "weightshare" in key]
        self.plain, self.planned, self.groups = self.plain + self.planned, [], 0

    @rule()
    def save_and_load(self) -> None:
        with tempfile.TemporaryDirectory() as folder, self.same_outputs():
            ws.save(self.model, Path(folder) / "m.safetensors")
            self.model = ws.load(Path(folder) / "m.safetensors", self.network.build().eval())

    @rule(assign=st.booleans(), keep=st.sampled_from([None, 0, -1]))
    def load_a_state(self, assign: bool, keep: int | None) -> None:
        dropped = {path for tie in self.planned for path in set(tie) - {tie[keep or 0]}} if keep is not None else set()
        entries = {name: tensor.clone() for name, tensor in self.model.state_dict().items() if name not in dropped}
        with self.same_outputs():
            self.spoil_numbers()
            # Assigning unties what is tied without a plan: that is torch's doing, and no promise of ours.
            self.model.load_state_dict(entries, assign=assign and not self.plain)

    @precondition(lambda self: not self.plain)
    @rule(first=st.booleans())
    def go_over_meta(self, first: bool) -> None:
        entries = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        with self.same_outputs():
            self.model.to("meta").to_empty(device="cpu")
            self.spoil_numbers()
            assert sorted(ws.retie_(self.model, compare=False) if first else []) == sorted(
                path for tie in self.planned for path in tie[1:] if first
            )
            self.model.load_state_dict(entries)

    @precondition(lambda self: self.planned)
    @rule(data=st.data(), assign=st.booleans())
    def refuse_a_state_with_two_values_for_a_slot(self, data: st.DataObject, assign: bool) -> None:
        path = data.draw(st.sampled_from(self.planned))[-1]
        entries = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        entries[path] = entries[path] + 1
        before = state(self.model)
        with pytest.raises(ModelChanged, match="different numbers"):
            self.model.load_state_dict(entries, assign=assign)
        assert state(self.model) == before

    @invariant()
    def ties_are_those_of_the_plans(self) -> None:
        tied = {frozenset(site.names) for site in sites(self.model) if site.aliases}
        assert tied == set(map(frozenset, self.planned + self.plain))
        groups = ws.report(self.model).groups
        assert len(groups) == self.groups
        assert all(group.intact for group in groups)

    @invariant()
    def counts_and_numbers_are_sound(self) -> None:
        assert self.stored == sum(tensor.numel() for tensor in self.model.parameters()) == ws.report(self.model).stored
        assert all(tensor.isfinite().all() for tensor in self.model.parameters())

    @invariant()
    def an_optimizer_is_accepted(self) -> None:
        ws.check(torch.optim.SGD(ws.param_groups(self.model, weight_decay=0.0), lr=0.1), self.model)

    @contextmanager
    def same_outputs(self) -> Iterator[None]:
        """What happens inside must not change what the model computes, to the last bit."""
        before = output(self.model, self.example)
        yield
        assert bits(output(self.model, self.example)) == bits(before)

    def fail_late(self, plan: ws.Plan) -> None:
        """Apply a plan and stop at its last edit, or where it would be refused itself."""
        before = state(self.model)
        stopped = mock.patch.object(planning, "record", side_effect=InterruptedError)
        with stopped, pytest.raises((InterruptedError, SharingError)):
            plan.apply_(self.model)
        assert state(self.model) == before

    def spoil_numbers(self) -> None:
        """So that numbers which should be loaded must be."""
        with torch.no_grad():
            for tensor in self.model.parameters():
                tensor.fill_(0.5)


def replace(model: nn.Module, path: str, tensor: nn.Parameter) -> None:
    """What a user does by hand: `model.layer.weight = tensor`."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, tensor)


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=100, stateful_step_count=15)
