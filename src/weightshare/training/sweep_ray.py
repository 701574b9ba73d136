"""Runs of a sweep on Ray: Tune says which one starts where and which ends early; what is done, their directories say.

Tune's own record of an experiment is neither kept nor restored: it would be a second truth beside the directories.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
import logging
import os
from pathlib import Path
import shutil
import signal
import threading
from types import FrameType, SimpleNamespace
from typing import Any
import uuid

from weightshare.errors import ConfigError, TrainingError
from weightshare.training.sweep_plan import Planned, SweepConfig
from weightshare.training.sweep_runs import DONE, Found, carry_out, end_early
from weightshare.training.workplace import Stopped

SCRATCH = ".tune"  # in the sweep's folder, while it runs: what Tune insists on writing
DEATHS = 3  # of its workers that a run is started again after, before the sweep goes on without it
STARTS = 3  # of Ray, before it is given up
STORE = 80_000_000  # bytes for objects that processes pass each other; Ray takes no less than 75 MB
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it would swallow the interrupt
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a configuration are the caller's
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else whatever else is at work on the machine comes before the runs
}


def on_ray(sweep: SweepConfig, found: Sequence[Found], ended: Callable[[Planned], None]) -> None:
    """Carry out the runs that are not done.

    Args:
        sweep: What to do, and where.
        found: All runs of it.
        ended: Called whenever a run has come to an end.

    Raises:
        ConfigError: If Ray is not installed, cannot be reached, or has no room for a run.
        TrainingError: If a node of the cluster lacks the package or the folder.
        Stopped: After SIGINT or SIGTERM; all workers are gone then.
    """
    tune = _imported()
    runs = {one.planned.name: one.planned for one in found if one.status not in DONE}
    scratch = Path(sweep.out).absolute() / SCRATCH
    with ExitStack() as around:
        around.enter_context(_set(SETTINGS))
        around.enter_context(_connected(sweep))
        around.enter_context(_stopping())  # last: Ray sets handlers of its own, which end the process
        around.callback(shutil.rmtree, scratch, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)

        class Ended(tune.Callback):
            def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
                ended(runs[trial.config["name"]])

            on_trial_error = on_trial_complete

        tune.Tuner(
            tune.with_resources(_trainable(sweep, runs), {"cpu": sweep.cpus, "gpu": sweep.gpus}),
            param_space={"name": tune.grid_search(list(runs))},
            tune_config=tune.TuneConfig(
                scheduler=_scheduler(sweep, found), max_concurrent_trials=sweep.concurrent, trial_dirname_creator=str
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(scratch),
                failure_config=tune.FailureConfig(max_failures=DEATHS),
                callbacks=[Ended()],
                verbose=0,
            ),
        ).fit()


def _trainable(sweep: SweepConfig, runs: Mapping[str, Planned]) -> Callable[[dict[str, Any]], None]:
    """What a worker does. It travels to another process, and maybe to another machine."""
    here, threads, metric, halved = os.getcwd(), sweep.cpus, sweep.metric, sweep.asha is not None

    def train(chosen: dict[str, Any]) -> None:
        from ray import tune
        import torch

        torch.set_num_threads(threads)  # of this thread; the last bits of a sum depend on it
        if Path(here).is_dir():
            os.chdir(here)
        told = 0

        def report(rows: list[dict[str, float]]) -> bool:
            nonlocal told
            for row in rows[told:]:  # after a stop also the rows from before it, for the rungs
                if metric not in row:
                    raise ConfigError(f"metric={metric!r}: this run has {', '.join(row)}.")
                tune.report({"epoch": row["epoch"], metric: row[metric]})
            told = len(rows)
            return False  # who is to end early finds that in its directory

        tune.report({"status": carry_out(runs[chosen["name"]], report if halved else None).status})

    return train


def _scheduler(sweep: SweepConfig, found: Sequence[Found]) -> Any:
    """Tune's ASHA, told of all that is done already; it does not kill a run but lets it end in good order."""
    if sweep.asha is None:
        return None
    from ray.tune.schedulers import ASHAScheduler

    runs = {one.planned.name: one.planned for one in found}
    epochs = {name: run.config.train.epochs for name, run in runs.items() if one_can(run)}

    class Halved(ASHAScheduler):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            name = trial.config["name"]
            behind = super().on_trial_result(tune_controller, trial, result) == self.STOP
            if behind and result["epoch"] < epochs[name] and tune_controller is not None:
                end_early(runs[name], result["epoch"])
            return self.CONTINUE

    halved = Halved(
        time_attr="epoch",
        metric=sweep.metric,
        mode=sweep.mode,
        max_t=max(epochs.values()),
        grace_period=sweep.asha.grace_epochs,
        reduction_factor=sweep.asha.reduction,
    )
    for one in found:
        if one.status in DONE:
            trial = SimpleNamespace(trial_id=one.planned.name, config={"name": one.planned.name})
            halved.on_trial_add(None, trial)  # type: ignore[arg-type]
            for row in one.history:
                if sweep.metric in row:
                    halved.on_trial_result(None, trial, row)
    return halved


def one_can(run: Planned) -> bool:
    """Whether a run's values go together."""
    try:
        return bool(run.config)
    except ValueError:
        return False


def _imported() -> Any:
    try:
        from ray import tune
    except ImportError as error:
        raise ConfigError(f"A sweep needs Ray Tune ({error}): pip install 'weightshare[sweep]'.") from error
    return tune


@contextmanager
def _connected(sweep: SweepConfig) -> Iterator[None]:
    """Ray on this machine or at an address, with room for a run; what runs already is used, and left running."""
    import ray

    logger = logging.getLogger("ray")
    level, mine, terminate = logger.level, not ray.is_initialized(), signal.getsignal(signal.SIGTERM)
    if mine:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if sweep.address is None:
            cores = (sweep.concurrent or max(1, (os.cpu_count() or 1) // sweep.cpus)) * sweep.cpus
            quiet |= {"address": "local", "num_cpus": cores, "include_dashboard": False, "object_store_memory": STORE}
        else:
            quiet |= {"address": sweep.address}
        _start(sweep, quiet)
    try:
        logger.setLevel(logging.CRITICAL)  # of a trial that fails Tune logs what is on the page
        _refuse_without_room(sweep, ray.nodes())
        if sweep.address is not None:
            _refuse_unready(Path(sweep.out).absolute(), ray.nodes())
        yield
    finally:
        if mine:
            ray.shutdown()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminate)
        logger.setLevel(level)


def _start(sweep: SweepConfig, options: dict[str, Any]) -> None:
    """Start Ray or connect to it; on a busy machine it may not be up within the 30 seconds that it gives itself."""
    import ray

    for attempt in range(1, STARTS + 1):
        try:
            ray.init(**options)
        except Exception as error:  # of many kinds
            ray.shutdown()
            if attempt == STARTS:
                where = "on this machine" if sweep.address is None else f"at address={sweep.address!r}"
                raise ConfigError(f"Ray cannot be had {where}: {error}") from error
        else:
            return


def _refuse_without_room(sweep: SweepConfig, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise if no node can ever hold a run: Ray would wait for one."""
    needed = {"CPU": sweep.cpus, "GPU": sweep.gpus}
    held = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(all(one.get(kind, 0) >= much for kind, much in needed.items()) for one in held):
        most = {kind: max((one.get(kind, 0) for one in held), default=0) for kind in needed}
        raise ConfigError(
            f"cpus={sweep.cpus}, gpus={sweep.gpus}: no node has as much for a run; the most are {most['CPU']:g} CPUs "
            f"and {most['GPU']:g} GPUs."
        )


def _refuse_unready(out: Path, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise if a node lacks this package, has another version of it, or does not see the sweep's folder."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from weightshare.training.environment import environment

    token = out / f".{uuid.uuid4().hex}.tmp"
    token.touch()
    version = environment()["packages"].get("weightshare")

    def seen(path: str) -> tuple[str | None, bool]:
        from importlib.metadata import PackageNotFoundError, version
        from pathlib import Path

        try:
            return version("weightshare"), Path(path).exists()
        except PackageNotFoundError:
            return None, Path(path).exists()

    try:
        for node in nodes:
            if not node["Alive"]:
                continue
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task: Any = ray.remote(seen)
            there, shared = ray.get(task.options(num_cpus=0, scheduling_strategy=strategy).remote(str(token)))
            name = node["NodeManagerHostname"]
            if there != version:
                has = "no weightshare" if there is None else f"weightshare {there}"
                raise TrainingError(f"The node '{name}' has {has}: install weightshare {version} with [train] on it.")
            if not shared:
                raise TrainingError(
                    f"The node '{name}' does not see '{out}'. Give an out on a file system that all nodes share."
                )
    finally:
        token.unlink(missing_ok=True)


class _Asked(KeyboardInterrupt):
    """Raised where a signal finds the process; no `except Exception` of Ray's swallows it."""


@contextmanager
def _stopping() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Stopped`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[signal.Signals] = []

    def stop(number: int, _: FrameType | None) -> None:
        asked.append(signal.Signals(number))
        if len(asked) == 1:
            raise _Asked

    numbers = [signal.SIGINT, signal.SIGTERM]
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped("The sweep was stopped; every run has kept its state.", (*asked, signal.SIGINT)[0]) from None
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _set(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that are put back afterwards."""
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
