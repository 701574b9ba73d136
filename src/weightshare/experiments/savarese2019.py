"""Savarese 2019, learning implicitly recurrent CNNs through parameter sharing: the tables and figures of the poster."""

from weightshare.experiments.printed import savarese2019 as printed
from weightshare.experiments.studies.savarese2019_cifar import CIFAR, SIZE, cifar
from weightshare.experiments.studies.shortest_paths_table import METRICS, TITLES, paths
from weightshare.experiments.table import Metric, Table, single

OTHERS = {
    "resnext-29-16x64": "ResNeXt-29 16x64, of another paper",
    "densenet-100-24": "DenseNet 100-24, of another paper",
    "densenet-190-40": "DenseNet 190-40, of another paper",
}
PARAMETERS = Metric("parameters", "million", "low", 2)


def error_of(data: str) -> Metric:
    """An error in percent."""
    return Metric(f"error on {data}", better="low")


TABLES = (
    Table(
        name="savarese2019/cifar",
        title="CIFAR: wide ResNets whose layers share templates, at equal size and at half of it",
        source="poster, table of CIFAR",
        rows={**OTHERS, **{row: network.name for row, network in CIFAR.items()}},
        columns={
            SIZE: {"params": PARAMETERS},
            "cifar10": {"cifar10/error": error_of("CIFAR-10")},
            "cifar100": {"cifar100/error": error_of("CIFAR-100")},
        },
        job=cifar,
        printed=printed.TABLES["cifar"],
        protocol={
            "smoke": "Digits, one epoch, depth 16, widths 1 to 1.5.",
            "small": "Widths 1, 1.5 and 2 instead of 10, 14 and 18, without dropout; images of 16×16 pixels, means of 2×2, "
            "the first 30 % of each class; 5 epochs instead of 200, with the learning rate falling at the same fractions "
            "of them; batches of 64 at 0.05 instead of 128 at 0.1.",
            "paper": "bfloat16 in products and norms. The schedule is that of Zagoruyko 2016, which the poster does not "
            "tell.",
        },
        holds=lambda row, column: row not in OTHERS,
        note="* is trained with dropout of 0.3. SWRN L-w-k has k templates for each group of equal layers, SWRN L-w as "
        "many as layers. Parameters are of the network that is trained at each scale.",
    ),
    Table(
        name="savarese2019/figure-shortest-paths",
        title="Learning to search: all pixels on some shortest path, on paths that grow longer",
        source="poster, extrapolation bias",
        rows=TITLES,
        columns=single(**METRICS),
        job=paths,
        protocol={
            "smoke": "5 layers of 5 channels, 12 grids of 7×7 pixels and 4 steps a phase.",
            "small": "32 layers of 16 channels, grids of 16×16 pixels, 192 of them a phase, distances up to 12.",
            "paper": "100 layers, grids of 32×32 pixels and 50 epochs a phase are the poster's. Channels, residuals, the "
            "number of grids, their distances, how obstacles are drawn, AdamW and its rates are ours: the poster does "
            "not tell.",
        },
        note="The poster has curves and no numbers. IoU: pixels both marked and on some shortest path over those that "
        "are either, on held-out grids. Distances above those of the last phase are never trained on. 'Fresh' rows see "
        "new grids in each step, so that nothing can be learnt by heart.",
    ),
)
