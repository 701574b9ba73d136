"""What processes find that spread a model by `shard_`: run by `test_distributed`, one process a rank."""

from datetime import timedelta
import os
from pathlib import Path
import sys

import pytest
import torch
from torch import Tensor, nn
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from tests import zoo
from tests.contract.trial import check_close, partition
from tests.support import same_bits, state
import weightshare as ws
from weightshare.depth.regularise import SimilarityPenalty
from weightshare.errors import FileError, ModelChanged, NoMatch, OptimizerMismatch, SpecError
from weightshare.hooks import Handle
from weightshare.space.plasticity import Hebbian
from weightshare.surgery import edit
from weightshare.training.distributed import load_sharded, save_sharded, shard_, unsharded_copy
from weightshare.values.baselines import BetaLasso, Subgradient

EXTRA = {"step": 2, "note": "two steps"}
SPECS = {
    "tie": lambda: ws.Tie(rate=2, order=ws.strided, fuse=ws.mean),
    "templates": lambda: ws.Templates(2, init="from_pretrained"),
    "clusters": lambda: ws.Codebook(clusters=3),
}


def shared(spec: str) -> zoo.Case:
    torch.manual_seed(0)
    case = zoo.chain()
    ws.share_(case.model, SPECS[spec]())
    return zoo.Case(case.model, torch.randn(6, 3))  # which 1, 2 and 3 processes share evenly


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(ws.param_groups(model, weight_decay=0.1), lr=0.05, eps=1e-3, fused=True)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor, steps: int) -> None:
    """As one process with the joined batch: a mean over rows, whatever the number of processes."""
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch.chunk(ranks)[rank]).square().mean().backward()
        optimizer.step()


def numbers(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
        for name, tensor in model.state_dict().items()
    }


def units(_: Path) -> None:
    """Each parameter lies in one unit; what shares with no block, and what holds the bank of others, in the root's."""
    model = shared("tie").model
    text = str(made := shard_(model))
    assert [unit.modules for unit in made.units] == [(f"blocks.{n}", f"blocks.{n + 3}") for n in range(3)] + [("",)]
    assert sum(unit.numbers for unit in made.units) == ws.report(model).stored
    assert "blocks.0, blocks.3" in text
    assert "4 units over 2 processes" in text

    model = shared("templates").model
    made = shard_(model)  # the bank of a container lies with its first reader
    assert [unit.modules for unit in made.units] == [(f"blocks.{n}",) for n in range(1, 6)] + [("",)]
    assert {"blocks.0.norm.weight", "stem.weight"} < set(made.units[-1].parameters)

    model = zoo.tied_embedding().model
    ws.share_(model, ws.Tie(rate=2), where="layers.*.fc1")
    made = shard_(model)
    assert [unit.modules for unit in made.units] == [("layers.0", "layers.1"), ("layers.2", "layers.3"), ("",)]
    assert made.units[-1].parameters == ("embed.weight",)
    assert model.head.weight is model.embed.weight

    made = shard_(zoo.layer_used_twice().model)
    assert [unit.modules for unit in made.units] == [("0",), ("1",), ("2",), ("3",), ("",)]
    for blocks, wanted in (([], [("",)]), ("blocks.[01]", [("blocks.0",), ("blocks.1",), ("",)])):
        assert [unit.modules for unit in shard_(zoo.chain().model, blocks=blocks).units] == wanted
    head = zoo.tied_embedding().model
    head.layers[1].fc2.bias = nn.Parameter(torch.zeros(5))
    head.layers[0].norm.bias = head.layers[1].fc2.bias
    head.extra = head.layers[0].norm.bias
    made = shard_(head, reshard_after_forward=True)
    assert [unit.modules for unit in made.units] == [("layers.2",), ("layers.3",), ("",)]
    assert "2 blocks" in made.units[-1].reason


def refused(_: Path) -> None:
    """Before anything is changed, and if torch refuses, all is put back."""
    model = zoo.chain().model
    for broken, said in (
        (nn.parallel.DistributedDataParallel(zoo.chain().model), "wrapped by DistributedDataParallel"),
        (zoo.chain().model.to("meta"), r"'stem.weight' is on the meta device"),
        (zoo.scalars().model, r"'0.scale' is a scalar"),
        (zoo.transposed().model, "'stem.weight' is not contiguous"),
        (zoo.channels_last().model, "is not contiguous in memory"),
        (nn.ParameterDict({"a": nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)}), "int8"),
        (nn.ModuleList([nn.Linear(2, 3)]), "fully_shard refuses ModuleList"),
    ):
        before = state(broken)
        with pytest.raises(SpecError, match=said):
            shard_(broken)
        assert state(broken) == before
    with pytest.raises(NoMatch, match=r"blocks='body\.\*' matches no module"):
        shard_(model, blocks=["body.*"])
    before = state(model)
    with pytest.raises(SpecError, match=r"fully_shard refuses Sequential: .*reshard"):
        shard_(model, reshard_after_forward="sometimes")
    with pytest.raises(SpecError, match="need a DeviceMesh of that device"):
        shard_(model, mesh="cpu")
    assert state(model) == before
    untied = shared("tie").model
    untied.blocks[0].fc1.weight = nn.Parameter(torch.zeros(7, 5))
    with pytest.raises(ModelChanged, match="retie_"):
        shard_(untied)
    shard_(model)
    with pytest.raises(SpecError, match=r"'stem\.weight' is sharded already"):
        shard_(model)


def whole_verbs(folder: Path) -> None:
    """Verbs on a sharded model: reports count the whole; what needs it whole is refused, and done with a copy."""
    for spec in SPECS:
        model, batch = shared(spec)
        twin = shared(spec).model
        wanted = ws.report(twin)
        shard_(model)
        assert ws.report(model).to_json().replace("FSDP", "") == wanted.to_json()
        optimizer = optimizer_of(model)
        ws.check(optimizer, model)
        assert ws.retie_(model) == []
        train(model, optimizer, batch, 1)
        path = folder / f"{dist.get_rank()}.safetensors"
        for verb in (ws.fold, ws.unshare_, lambda net: ws.save(net, path), lambda net: ws.load(path, net)):  # noqa: B023
            with pytest.raises(SpecError, match="are spread over processes"):
                verb(model)
        copy = unsharded_copy(model)
        assert (unsharded_copy(model, everywhere=False) is None) == (dist.get_rank() > 0)
        names = [[type(module).__name__ for module in net.modules()] for net in (copy, twin)]
        assert names[0] == names[1]
        assert partition(copy) == partition(twin)
        check_close(copy.state_dict(), numbers(model))
        ws.save(copy, path)
        assert same_bits(ws.load(path, twin).state_dict().values(), copy.state_dict().values())
        plain = ws.fold(copy)
        with torch.no_grad():
            torch.testing.assert_close(plain(batch), model(batch))
        alone = optimizer_of(copy)
        copy(batch).square().mean().backward()  # none of its hooks is FSDP's
        alone.step()
        train(model, optimizer, batch, 1)
        ws.unshare_(copy)
    model = zoo.chain().model
    shard_(model)
    before = partition(model)
    with pytest.raises(SpecError, match=r"A plan is applied: .* Share first, then shard"):
        ws.share_(model, ws.Tie(rate=2), where="*.fc1")
    with pytest.raises(ModelChanged, match="after fully_shard"), edit.transaction(model) as edits:
        edits.put("stem.bias", model.blocks[0].fc2.bias)
    assert partition(model) == before


def after_evaluation(_: Path) -> None:
    """FSDP2 leaves the root unit gathered after a pass without gradients: its parameters are found all the same."""
    model, batch = shared("tie")
    shard_(model)
    optimizer = optimizer_of(model)
    handle = ws.Proximal(strength=0.1).attach_(optimizer, model, where="stem.weight")
    train(model, optimizer, batch, 1)
    with torch.no_grad():
        model(batch)
    assert not isinstance(model.stem.weight, DTensor)
    assert handle.measure()["stem.weight"]["weights"] == 15
    with torch.no_grad():
        model(batch)
    ws.check(optimizer, model)
    assert isinstance(model.stem.weight, DTensor)


def loading(_: Path) -> None:
    """A whole state dict, by torch's own function, keeps the ties; one that gives a slot two values is refused."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    torch.manual_seed(1)
    other = zoo.chain().model
    ws.share_(other, SPECS["tie"]())
    full = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    model = shared("tie").model
    ties = partition(model)
    shard_(model)
    set_model_state_dict(model, dict(full), options=StateDictOptions(full_state_dict=True))
    assert partition(model) == ties
    check_close(numbers(model), full)
    mine = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mine["blocks.3.fc1.weight"] = mine["blocks.3.fc1.weight"] + 1
    with pytest.raises(
        ModelChanged, match=r"different numbers for 'blocks\.0\.fc1\.weight' and 'blocks\.3\.fc1\.weight'"
    ):
        model.load_state_dict(mine)


def hooks(_: Path) -> None:
    """Whatever runs around a step does to a part what it does to the whole."""
    torch.manual_seed(2)
    images = torch.randn(6, 3, 5, 7)
    local = [lambda spec=spec: (zoo.local_images().model, spec) for spec in sleeps()]
    chains = [lambda spec=spec: (shared("templates").model, spec) for spec in penalties()]
    for make in (*local, *chains):
        found = []
        for sharded in (False, True):
            torch.manual_seed(0)
            model, spec = make()
            before = numbers(model)
            if sharded:
                shard_(model)
            optimizer = torch.optim.SGD(ws.param_groups(model, weight_decay=0.0), lr=0.1)
            handle: Handle = spec.attach_(optimizer, model)
            batch = images if isinstance(spec, ws.Sleep) else torch.ones(6, 3)
            model.eval()(batch).square().mean().backward()
            optimizer.step()
            found.append(numbers(model))
            assert all(isinstance(one, DTensor) == sharded for one in model.parameters())
            assert handle.steps == 1
        check_close(found[1], found[0])
        assert any(not torch.equal(found[1][name], before[name]) for name in before)
    model = zoo.local_rows().model
    ws.Sleep().now_(whole := zoo.local_rows().model)
    whole.load_state_dict(model.state_dict())
    ws.Sleep(mode="hebbian").now_(whole)
    shard_(model)
    ws.Sleep(mode="hebbian").now_(model)
    assert same_bits(numbers(model).values(), whole.state_dict().values())
    measured = [handle_of(one).measure() for one in (model, whole)]
    assert measured[0] == measured[1]


def sleeps() -> list[ws.Sleep]:
    return [
        ws.Sleep(),
        ws.Sleep(strength=0.3),
        ws.Sleep(mode="hebbian"),
        ws.Sleep(mode=Hebbian(noise=0.2, iterations=3)),
    ]


def penalties() -> list[object]:
    return [SimilarityPenalty(strength=0.5), BetaLasso(strength=0.01), Subgradient(strength=0.01)]


def handle_of(model: nn.Module) -> Handle:
    optimizer = torch.optim.SGD(ws.param_groups(model, weight_decay=0.0), lr=0.1)
    return Subgradient(strength=0.1).attach_(optimizer, model, where="4.weight")


def optimizers(_: Path) -> None:
    """Each slot once, by one step or by torch's kernels for lists of tensors: the same numbers."""
    for options in ({"foreach": True}, {"fused": True}, {"foreach": False, "fused": False}):
        model, batch = shared("tie")
        twin = shared("tie").model
        shard_(model)
        for net in (model, twin):
            groups = ws.param_groups(net, weight_decay=0.1, lr_scale="mean", lr=0.05)
            optimizer = torch.optim.AdamW(groups, lr=0.05, eps=1e-3, **options)
            assert len({id(one) for group in groups for one in group["params"]}) == len(list(net.parameters()))
            rows = batch if net is twin else batch.chunk(2)[dist.get_rank()]
            for _ in range(2):
                optimizer.zero_grad()
                net(rows).square().mean().backward()
                optimizer.step()
        check_close(numbers(model), numbers(twin))


def saving(folder: Path) -> None:
    """Two steps, a checkpoint, and a third step, whose result others have to meet."""
    for spec in SPECS:
        model, batch = shared(spec)
        shard_(model)
        optimizer = optimizer_of(model)
        train(model, optimizer, batch, 2)
        save_sharded(folder / spec, model, optimizer, EXTRA)
        with pytest.raises(FileError, match="is there already"):
            save_sharded(folder / spec, model)
        train(model, optimizer, batch, 1)
        copy = unsharded_copy(model, everywhere=False)
        if copy is not None:
            ws.save(copy, folder / f"{spec}.safetensors")
    model = thin()
    shard_(model, blocks=[])
    model[1].running_mean.fill_(dist.get_rank() + 1.0)
    save_sharded(folder / "thin", model)
    with pytest.raises(FileError, match="is no JSON"):
        save_sharded(folder / "no", model, extra={"x": float("nan")})
    with pytest.raises(OptimizerMismatch, match="that the model does not have"):
        save_sharded(folder / "no", model, torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.1))
    assert not (folder / "no").exists()
    assert not list(folder.glob(".*"))


def resuming(folder: Path) -> None:
    """Goes on to the same third step, in any number of processes, whether the model is spread or not."""
    for spec in SPECS:
        for spread in (False, True)[: 1 + dist.is_initialized()]:
            model, batch = shared(spec)
            twin = shared(spec).model
            ties = partition(model)
            if spread:
                shard_(model)
            optimizer = optimizer_of(model)
            for parameter in model.parameters():
                nn.init.zeros_(parameter)
            assert load_sharded(folder / spec, model, optimizer) == EXTRA
            ws.check(optimizer, model)
            assert partition(model) == ties
            if spread or not dist.is_initialized():
                train(model, optimizer, batch, 1)
                check_close(numbers(model), ws.load(folder / f"{spec}.safetensors", twin).state_dict())
    model = thin()
    load_sharded(folder / "thin", model)
    assert model[1].running_mean.item() == 1.0


def thin() -> nn.Sequential:
    """Vectors of one number, of which one process of two holds nothing."""
    return nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))


def main(folder: str, rank: int, ranks: int, *checks: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{os.path.join(folder, f'store_{ranks}')}"
    wait = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=wait)
    for check in checks:
        globals()[check](Path(folder))
        print(check, flush=True)
    dist.barrier()
    # Not by the interpreter's own end: threads of gloo may outlive it, which aborts though all checks have passed.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
