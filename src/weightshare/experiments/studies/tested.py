"""What experiments that learn from a part of a data set have in common: the test on all images, and what is written."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightshare.files.atomic import read_json, write_json
from weightshare.training.data import Data, InMemory
from weightshare.training.loop import evaluate
from weightshare.training.recipe import RunConfig
from weightshare.training.run import trained

TESTED = "tested.json"


def tested(settings: RunConfig, whole: Data) -> float:
    """Accuracy of a finished run on all test images, as a fraction; measured once, and kept beside the run.

    Args:
        settings: Of the run.
        whole: The data set before it was prepared; images are normalised as those that the run learnt from.
    """
    kept = Path(settings.out) / TESTED
    if not kept.is_file():
        model, data = trained(settings.out)
        split = all_test_images(whole, data)
        write_json(kept, {"accuracy": evaluate(model, split)[1], "images": len(split)})
    return read_json(kept)["accuracy"]


def all_test_images(whole: Data, learnt: Data) -> InMemory:
    """The test images of a whole data set, normalised as those that a run learnt from."""
    assert isinstance(whole.test, InMemory)
    return replace(whole.test, mean=learnt.train.mean, std=learnt.train.std)


def config_of(summary: Mapping[str, Any], data: str, *also_hidden: str) -> dict[str, Any]:
    """The configuration of a run as a result keeps it: nothing of this machine, nor what differs from seed to seed.

    Args:
        summary: Of the run.
        data: What it learnt from. A file is where it is on this machine; what it holds is its name.
        also_hidden: Further keys that say where something lies.
    """
    hidden = ("seed", "out", "data_dir", *also_hidden)
    return {key: value for key, value in summary["config"].items() if key not in hidden} | {"data": Path(data).stem}
