"""Which processes a run has, and what is said of one that is lost; what they do together is tested with real ones."""

from datetime import timedelta

from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
import pytest

from weightshare.errors import ConfigError, TrainingError
from weightshare.training.launch import _started, _strategy, launched, together
from weightshare.training.recipe import RunConfig

GLOO = "[../third_party/gloo/gloo/tcp/pair.cc:553] Connection closed by peer [::1]. This is typically caused by"


class Processes:
    """As much of Fabric as says which processes there are."""

    def __init__(self, world_size: int) -> None:
        self.world_size, self.global_rank = world_size, 0


@pytest.fixture
def torchrun(monkeypatch):
    """As torchrun tells each of three processes on each of two machines."""
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "3", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)


def config(**settings) -> RunConfig:
    return RunConfig("m", device="cpu", timeout_minutes=3.0, **settings)


def test_devices_say_how_many_processes_there_are():
    assert _started(config(devices=2)) == (2, 1)


@pytest.mark.parametrize("devices", [1, 3])
def test_torchrun_says_it_instead(devices, torchrun):
    assert _started(config(devices=devices)) == (3, 2)


def test_torchrun_and_devices_that_contradict_each_other(torchrun):
    with pytest.raises(ConfigError, match=r"devices=2, but torchrun has started 3 processes here.*--nproc-per-node 2"):
        launched(config(devices=2))


def test_a_strategy_that_does_not_exist():
    with pytest.raises(ConfigError, match="strategy='fsdp3' with precision='32-true' cannot be had here"):
        launched(config(strategy="fsdp3"))


@pytest.mark.parametrize(
    ("name", "processes", "kind"),
    [("auto", 2, DDPStrategy), ("ddp", 1, DDPStrategy), ("fsdp2", 2, ModelParallelStrategy)],
)
def test_strategies_have_our_patience(name, processes, kind):
    strategy = _strategy(config(strategy=name), processes)
    assert type(strategy) is kind
    assert strategy._timeout == timedelta(minutes=3)


@pytest.mark.parametrize("name", ["auto", "deepspeed"])
def test_other_strategies_are_left_to_fabric(name):
    assert _strategy(config(strategy=name), 1) == name


def test_the_loss_of_another_process_is_said():
    wanted = r"Process 0 of 2 has lost another one.*Connection closed by peer \[::1\]\. Go on with that\.$"
    with pytest.raises(TrainingError, match=wanted), together(Processes(2), "Go on with that."):
        raise RuntimeError(GLOO)


@pytest.mark.parametrize(("world", "said"), [(1, GLOO), (2, "shapes do not fit")])
def test_other_errors_stay_what_they_are(world, said):
    with pytest.raises(RuntimeError) as raised, together(Processes(world)):
        raise RuntimeError(said)
    assert str(raised.value) == said
