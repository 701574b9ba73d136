"""MNIST on a torus, at an eighth of the paper's width: can a fully connected network find convolutions by itself?

A circular convolutional network and its fully connected twin (see `models.torus`), on images shifted around once each.
The twin is trained plain, with each regulariser, and with pixels shuffled; a sweep on a validation split says which
strengths and which rewinding do best.

Source: Shakerinava 2023, MNIST on a torus. Differs: 4 and 8 channels instead of 32 and 64; weights in float32, layers
computed in bfloat16; one data set for all runs, drawn from seed 0.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightshare.errors import ConfigError
from weightshare.training.data import Prepare
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.regularise import Cluster, Regularise
from weightshare.training.run import MODEL

PAPER, TABLE, SWEEP_TABLE = "shakerinava2023", "torus", "torus-sweep"
WIDTHS = "4/8"
RECIPE = Recipe(epochs=200, batch_size=512, lr=0.1, weight_decay=0.0, warmup=0.0, clip=None, optimizer="sgd")
PREPARE = Prepare(fraction=0.6, pool=2, shift=True)
LAYERS = ("fc1.weight", "fc2.weight")


def proximal(first: float, second: float, **options: Any) -> list[Regularise]:
    """The proximal map on both layers, each with its strength."""
    return [Regularise(strength=s, where=at, **options) for s, at in zip((first, second), LAYERS, strict=True)]


ROWS: dict[str, tuple[str, list[Regularise], bool]] = {
    "plain": ("torus-mlp", [], False),
    "cnn": ("torus-cnn", [], False),
    "regularised": ("torus-mlp", proximal(1e-3, 1e-4), False),
    "rewound": ("torus-mlp", proximal(1e-2, 1e-3, rewind=0.98), False),
    "l1": ("torus-mlp", [Regularise(l1=1e-3, where=list(LAYERS))], False),
    "beta-lasso": ("torus-mlp", [Regularise("beta_lasso", strength=1e-4, where=list(LAYERS))], False),
    "subgradient": (
        "torus-mlp",
        [Regularise("subgradient", strength=s, where=at) for s, at in zip((1e-3, 1e-4), LAYERS, strict=True)],
        False,
    ),
    "regularised-shuffled": ("torus-mlp", proximal(1e-3, 1e-4), True),
    "cnn-shuffled": ("torus-cnn", [], True),
}
"""For each row of the table: the network, what regularises it, and whether pixels are shuffled. Strengths are the
paper's for its own map and the subgradient; of ℓ1 and β-lasso the better ones of the sweep."""

SWEEP: dict[str, tuple[str, list[Regularise]]] = {
    "plain": ("torus-mlp", []),
    "cnn": ("torus-cnn", []),
    **{f"strength-{a:g}-{b:g}": ("torus-mlp", proximal(a, b)) for a, b in (
        (1e-4, 1e-5), (3e-4, 3e-5), (1e-3, 1e-4), (3e-3, 3e-4), (1e-2, 1e-3), (1e-3, 1e-3)
    )},
    **{f"rewind-{r:g}-strength-{a:g}": ("torus-mlp", proximal(a, a / 10, rewind=r)) for r, a in (
        (0.5, 1e-3), (0.9, 1e-3), (0.9, 1e-2), (0.98, 1e-2), (0.98, 1e-1), (0.998, 1.0)
    )},
    **{f"every-{k}-strength-0.001": ("torus-mlp", proximal(1e-3, 1e-4, every=k)) for k in (70, 700)},
    "rewind-0.98-to-0.9": ("torus-mlp", proximal(1e-2, 1e-3, rewind=0.98, rewind_to=0.9)),
    **{f"l1-{s:g}": ("torus-mlp", [Regularise(l1=s, where=list(LAYERS))]) for s in (1e-4, 1e-3)},
    "l1-0.001-0.0001": ("torus-mlp", [Regularise(l1=s, where=at) for s, at in zip((1e-3, 1e-4), LAYERS, strict=True)]),
    **{f"beta-lasso-{s:g}": ("torus-mlp", [Regularise("beta_lasso", strength=s, where=list(LAYERS))])
       for s in (1e-5, 1e-4)},
}  # fmt: skip
"""For each row of the sweep the network and what regularises it."""


RETRAINED: dict[str, tuple[str, Cluster]] = {
    "regularised-256": ("regularised", Cluster(256, where=list(LAYERS))),
    "plain-256": ("plain", Cluster(256, where=list(LAYERS))),
    "rewound-own": ("rewound", Cluster(None, where=list(LAYERS))),
}
"""For each further row the row that it starts from, and the clusters that are frozen: 256 of k-means, or its own."""
RETRAIN_EPOCHS = 40


def config(row: str, seed: int, out: str | Path, data: str = "mnist", data_dir: str | None = None) -> RunConfig:
    """The configuration of one training of the table; one that retrains needs the run that it starts from.

    Raises:
        ConfigError: If there is no such row.
    """
    folder = str(Path(out) / f"{row}-seed{seed}")
    if row in RETRAINED:
        start, cluster = RETRAINED[row]
        before = config(start, seed, out, data, data_dir)
        recipe = replace(RECIPE, epochs=min(RETRAIN_EPOCHS, RECIPE.epochs))
        init = str(Path(before.out) / MODEL)
        return replace(before, init=init, codebook=[cluster], train=recipe, out=folder)
    network, regularise, shuffle = _found(ROWS, row, RETRAINED)
    return _config(network, regularise, replace(PREPARE, shuffle=shuffle), RECIPE, seed, folder, data, data_dir)


def sweep_config(row: str, out: str | Path, data: str = "mnist", data_dir: str | None = None) -> RunConfig:
    """The configuration of one training of the sweep: 60 epochs, a tenth of the training images held out.

    Raises:
        ConfigError: If there is no such row.
    """
    network, regularise = _found(SWEEP, row)
    prepare, recipe = replace(PREPARE, validation=0.1), replace(RECIPE, epochs=60)
    return _config(network, regularise, prepare, recipe, 0, str(Path(out) / f"sweep-{row}"), data, data_dir)


def _config(
    network: str,
    regularise: list[Regularise],
    prepare: Prepare,
    recipe: Recipe,
    seed: int,
    folder: str,
    data: str,
    data_dir: str | None,
) -> RunConfig:
    return RunConfig(
        f"{network}:{WIDTHS}",
        data=data,
        data_dir=data_dir,
        prepare=prepare,
        train=replace(recipe, regularise=regularise),
        seed=seed,
        device="cpu",
        precision="bf16-mixed",
        out=folder,
    )


def _found(rows: Mapping[str, Any], row: str, others: Mapping[str, Any] | None = None) -> Any:
    if row not in rows:
        raise ConfigError(f"There is no row {row!r}: need one of {', '.join((*rows, *(others or {})))}.")
    return rows[row]
