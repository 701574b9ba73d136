"""Local layers and sleep in runs: what a configuration says, what a run keeps, and that it goes on to the bit."""

from dataclasses import replace
import json
import math
import os
import signal

from lightning_fabric import Fabric
import pytest
import torch
from torch import nn

from tests.support import bits
from weightshare.analysis.report import report
from weightshare.errors import ConfigError, NoMatch, SpecError, TrainingError
from weightshare.files.checkpoint import save
from weightshare.models import build
from weightshare.space.lattice import Lattice
from weightshare.space.layer import LocalLayer
from weightshare.space.local import LocallyConnected2d
from weightshare.space.measure import space_sharing
from weightshare.space.plasticity import Hebbian
from weightshare.space.sleep import Sleep
from weightshare.training.data import Augment, load_data
from weightshare.training.keeper import CHECKPOINT
from weightshare.training.localise import Localise, SleepPhase
from weightshare.training.loop import fit
from weightshare.training.recipe import Recipe, RunConfig, strict
from weightshare.training.run import prepared, read_history, rewrite_page, run, trained
from weightshare.training.workplace import Stopped
from weightshare.verbs import fold

NAME = "resnet20:3/5/7"
RECIPE = Recipe(epochs=2, batch_size=64, augment=Augment(crop=1), sleep=[SleepPhase(every=3)])  # 22 steps an epoch


def network() -> nn.Module:
    torch.manual_seed(1)
    model = build(NAME, in_channels=1, classes=10, blocks=1)
    Localise(keep_first=1).apply_(model, torch.zeros(2, 1, 8, 8))
    return model


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def layers(model: nn.Module) -> list[LocalLayer]:
    return [one for one in model.modules() if isinstance(one, LocalLayer)]


def test_kernels_that_were_loaded_are_not_drawn_over(tmp_path):
    data = load_data("digits")
    torch.manual_seed(1)
    before = build(NAME, in_channels=1, classes=10, blocks=1)
    save(before, tmp_path / "trained.safetensors")
    made = RunConfig(model=NAME, model_args={"blocks": 1}, data="digits", init=str(tmp_path / "trained.safetensors"))
    with pytest.raises(ConfigError, match=r"set start: copy"):
        prepared(replace(made, localise=[Localise()]), data)
    model, _ = prepared(replace(made, localise=[Localise(start="copy")]), data)
    images = data.test[:5][0]
    torch.testing.assert_close(model.eval()(images), before.eval()(images))


def test_the_names_stand_for_the_spec():
    assert SleepPhase().spec == Sleep(every=10)
    phase = SleepPhase(3, "hebbian", 0.5, "epoch", "apart", 5, 0.2, 0.1, 7, 0.3, "stages.*")
    assert phase.spec == Sleep(3, Hebbian(0.2, 0.1, 7, noise=0.3), 0.5, "epoch", Lattice(5, "apart"))
    assert phase.where == "stages.*"
    read = strict(RunConfig, {"model": NAME, "localise": [{"keep_first": 1}], "train": {"sleep": [{"every": 100}]}})
    assert (read.localise, read.train.sleep) == ([Localise(keep_first=1)], [SleepPhase(every=100)])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"every": 0}, SpecError, r"Sleep\(every\)=0"),
        ({"strength": 2.0}, SpecError, r"Sleep\(strength\)=2.0"),
        ({"period": 0}, SpecError, r"Lattice\(period=0"),
        ({"mode": "hebbian", "gamma": -1.0}, SpecError, r"Hebbian\(gamma\)"),
        ({"lr": 0.2}, ConfigError, r"sleep\.lr goes with mode: hebbian, not with instant"),
        ({"noise": 0.2}, ConfigError, r"sleep\.noise goes with mode: hebbian"),
        ({"iterations": 2}, ConfigError, r"sleep\.iterations goes with mode: hebbian"),
    ],
)
def test_phases_that_cannot_be(options, error, said):
    with pytest.raises(error, match=said):
        SleepPhase(**options)


@pytest.mark.parametrize("options", [{"keep_first": -1}, {"eps": -0.1}, {"eps": math.nan}, {"eps": math.inf}])
def test_local_layers_that_cannot_be(options):
    with pytest.raises(ConfigError, match=r"localise: keep_first=.*need numbers of at least 0"):
        Localise(**options)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"localise": [{"start": "noise"}]}, r"localise\[0\]\.start='noise': did you mean"),
        ({"localise": [{"keepfirst": 1}]}, r"'localise\[0\]\.keepfirst': did you mean 'localise\[0\]\.keep_first'"),
        ({"train": {"sleep": [{"mode": "circuit"}]}}, r"train\.sleep\[0\]\.mode='circuit': did you mean"),
        ({"train": {"sleep": [{"every": 1.5}]}}, r"train\.sleep\[0\]\.every=1.5 is a float, need int"),
    ],
)
def test_a_configuration_is_read_strictly(data, said):
    with pytest.raises(ConfigError, match=said):
        strict(RunConfig, {"model": NAME} | data)


@pytest.mark.parametrize(
    ("localise", "within", "equal"),
    [
        (Localise(), (0, 10), False),
        (Localise(start="copy"), (math.inf, math.inf), True),
        (Localise(start="copy", eps=0.1), (50, math.inf), False),
        (Localise(eps=0.1), (50, math.inf), False),
    ],
)
def test_how_kernels_start(localise, within, equal):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 13, 3, padding=1), nn.Conv2d(13, 11, 3))
    start = model(x := torch.randn(3, 2, 11, 7))
    plan = localise.apply_(model, x)
    assert [row.path for row in plan.rows] == ["0", "1"]
    for layer in layers(model):
        assert within[0] <= space_sharing(layer).within <= within[1]
    assert torch.allclose(model(x), start, atol=1e-5) is equal


def test_what_does_not_match_is_said():
    with pytest.raises(NoMatch, match="matches no parameter"):
        Localise(where="nothing").apply_(network(), torch.zeros(2, 1, 8, 8))


def fitted(data, folder=None, model=None, recipe=RECIPE, **options):
    model = model or network()
    history = fit(model, data, recipe, seed=3, folder=folder, fabric=Fabric(accelerator="cpu", devices=1), **options)
    return model, history


def calling(model: nn.Module, step: int, action) -> nn.Module:
    """A network that does something when it sees its so-manieth training batch."""
    seen = []

    def count(module: nn.Module, inputs: object) -> None:
        seen.append(module.training)
        if sum(seen) == step and module.training:
            action()

    model.register_forward_pre_hook(count)
    return model


def test_sleep_keeps_kernels_together_and_the_history_says_how_far(digits):
    asleep, rows = fitted(digits, recipe=replace(RECIPE, sleep=[SleepPhase(every=1)]))
    for layer in layers(asleep):
        assert space_sharing(layer).within == math.inf
    assert [row["noise_within_modules"] for row in rows] == [0, 0]
    assert all(0 < row["noise_over_positions"] < math.inf for row in rows)
    awake, plain = fitted(digits, recipe=replace(RECIPE, sleep=[], epochs=1))
    found = [space_sharing(layer) for layer in layers(awake)]
    assert plain[-1]["noise_within_modules"] == pytest.approx(sum(1 / row.within for row in found) / len(found))
    assert plain[-1]["noise_over_positions"] == pytest.approx(sum(1 / row.all for row in found) / len(found))
    json.dumps(plain, allow_nan=False)


def test_a_network_without_local_layers_has_no_such_numbers(digits):
    model = build("convmixer:4/1/2/3", in_channels=1, classes=10)
    _, rows = fitted(digits, model=model, recipe=Recipe(epochs=1))
    assert not any(key.startswith("noise") for key in rows[0])
    with pytest.raises(NoMatch, match="has no local layer"):
        fitted(digits, model=model, recipe=replace(RECIPE, epochs=1))


def test_sleep_counts_within_an_epoch(digits):
    """22 steps of ws(3): after steps 1, 4, ..., 22, and again after the first of the next epoch."""
    model, slept = network(), []
    first = layers(model)[0]
    model.register_forward_pre_hook(
        lambda *_: slept.append(torch.equal(first.weight[0, 0], first.weight[3, 3])) if model.training else None
    )
    fitted(digits, model=model)
    assert slept[1:] == [step % 22 % 3 == 0 for step in range(43)]
    assert space_sharing(first).within == math.inf


PHASES = {
    "instant": SleepPhase(every=3),
    "hebbian": SleepPhase(every=3, mode="hebbian", noise=0.1, iterations=3),
    "epochs": SleepPhase(1, unit="epoch"),
}


@pytest.mark.parametrize(
    ("step", "phase"),
    [(11, "instant"), (25, "hebbian"), (22, "epochs")]
    + [pytest.param(step, phase, marks=pytest.mark.slow) for step in (1, 2, 21, 24) for phase in PHASES],
)
def test_a_run_that_is_stopped_goes_on_to_the_bit(digits, tmp_path, step, phase):
    recipe = replace(RECIPE, sleep=[PHASES[phase]])
    stopping = calling(network(), step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        fitted(digits, tmp_path, stopping, recipe)
    assert (tmp_path / CHECKPOINT).exists()
    resumed, rows = fitted(digits, tmp_path, recipe=recipe)
    whole, wanted = fitted(digits, recipe=recipe)
    assert [bits(one) for one in resumed.state_dict().values()] == [bits(one) for one in whole.state_dict().values()]
    assert [row["noise_within_modules"] for row in rows] == [row["noise_within_modules"] for row in wanted]


def test_another_sleep_is_another_run(digits, tmp_path):
    recipe = replace(RECIPE, epochs=1)
    fitted(digits, tmp_path, recipe=recipe)
    with pytest.raises(TrainingError, match=r"another run: recipe\.sleep is .*: 3, .* there and .*: 5, .* here"):
        fitted(digits, tmp_path, recipe=replace(recipe, sleep=[SleepPhase(every=5)]))


def test_weights_that_diverge_while_asleep_are_divergence(digits, tmp_path):
    model = network()
    spoil = calling(model, 9, lambda: layers(model)[0].weight.data.fill_(math.nan))
    with pytest.raises(TrainingError, match="diverged"):
        fitted(digits, tmp_path, spoil)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = RunConfig(
        NAME,
        model_args={"blocks": 1},
        localise=[Localise(keep_first=1)],
        train=replace(RECIPE, epochs=1),
        device="cpu",
        out=str(tmp_path_factory.mktemp("runs") / "local"),
    )
    return config, run(config)


def test_a_run_keeps_the_local_model_and_folds_it(finished):
    config, summary = finished
    model, data = trained(config.out)
    plain = build(NAME, in_channels=1, classes=10, blocks=1)
    local = layers(model)
    assert local
    assert type(model.get_submodule(next(path for path, one in plain.named_modules() if type(one) is nn.Conv2d))) is (
        nn.Conv2d
    )
    assert summary["stored"] == sum(one.numel() for one in model.parameters()) == report(model).stored
    assert space_sharing(local[0]).within == math.inf  # 22 steps, of which the last one is followed by a sleep
    small = fold(model, tolerance=math.inf)
    assert [type(one) for one in small.modules()] == [type(one) for one in plain.modules()]
    difference = (small.eval()(data.test[:][0][:512]) - model.eval()(data.test[:][0][:512])).abs().max()
    assert float(difference.detach()) == pytest.approx(summary["folded_output_difference"], rel=1e-4)
    assert summary["folded_file_bytes"] < summary["model_file_bytes"]


def test_its_page_and_its_history_can_be_read_again(finished):
    config, _ = finished
    assert read_history(config.out)[-1]["noise_within_modules"] == 0
    assert rewrite_page(config.out).is_file()


def test_a_finished_run_is_not_repeated_and_another_is_refused(finished):
    config, summary = finished
    assert run(config) == summary
    with pytest.raises(TrainingError, match=r"another run: localise is .*: 1, .* there and .*: 0, .* here"):
        run(replace(config, localise=[Localise()]))


def test_a_run_can_start_from_a_trained_network(tmp_path):
    plain = RunConfig(
        NAME, model_args={"blocks": 1}, train=Recipe(epochs=1, lr=1e-3), device="cpu", out=str(tmp_path / "plain")
    )
    summary = run(plain)
    init = str(tmp_path / "plain" / "model.safetensors")
    local = run(
        replace(
            plain,
            init=init,
            localise=[Localise(start="copy")],
            train=Recipe(epochs=1, lr=1e-9, sleep=[SleepPhase(1, period=1)]),
            out=str(tmp_path / "local"),
        )
    )
    assert local["stored"] > summary["stored"]
    assert local["folded_output_difference"] < 1e-4
    assert isinstance(layers(trained(tmp_path / "local")[0])[0], LocallyConnected2d)
