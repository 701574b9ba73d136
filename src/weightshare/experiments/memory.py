"""Which batch fits into memory: asked after a run did not."""

from dataclasses import replace
import gc

import torch

from weightshare.training.data import load_data
from weightshare.training.loop import fit
from weightshare.training.recipe import RunConfig
from weightshare.training.run import prepared


def fitting_batch(settings: RunConfig) -> int | None:
    """The largest batch, of the halves of the configured one, of which a step fits.

    Args:
        settings: Of a run that ran out of memory.

    Returns:
        Images in a step, or `None` if not even the smallest that can be trained fits.
    """
    size, copies = settings.train.batch_size // 2, settings.train.augment.repeats
    while size >= max(2, copies):
        size -= size % copies
        try:
            _train_a_step(settings, size)
            return size
        except torch.OutOfMemoryError:
            size //= 2
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return None


def _train_a_step(settings: RunConfig, size: int) -> None:
    """A step or two of a fresh model, and its evaluation, on as few images as that takes."""
    from lightning_fabric import Fabric

    whole = load_data(settings.data, settings.data_dir, settings.image_size)
    share = min(1.0, (4 * size + 2 * whole.classes) / len(whole.train))
    data = replace(settings.prepare, fraction=share, validation=0.5)(whole)
    model, _ = prepared(settings, data)
    fabric = Fabric(accelerator=settings.device, devices=1, precision=settings.precision)
    recipe = replace(settings.train, epochs=1, batch_size=size, distil=None)
    fit(model, data, recipe, settings.seed, None, fabric, label=f"a batch of {size}")
