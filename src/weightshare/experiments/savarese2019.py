"""Savarese 2019, learning implicitly recurrent CNNs through parameter sharing: the tables and figures of the poster."""

from collections.abc import Mapping

from weightshare.experiments.jobs import Scale
from weightshare.experiments.printed import savarese2019 as printed
from weightshare.experiments.studies.savarese2019_cifar import BESIDE, CIFAR, SIZE, beside, cifar
from weightshare.experiments.studies.savarese2019_imagenet import IMAGENET, imagenet
from weightshare.experiments.studies.savarese2019_lsm import EVOLVED, FOLDED, ROWS, alike
from weightshare.experiments.studies.savarese2019_pictures import draw_evolved, draw_folded
from weightshare.experiments.studies.shortest_paths_picture import FRESH, draw_marks, draw_paths
from weightshare.experiments.studies.shortest_paths_table import METRICS, TITLES, paths
from weightshare.experiments.table import Metric, Table, no_job, single

OTHERS = {
    "resnext-29-16x64": "ResNeXt-29 16x64, of another paper",
    "densenet-100-24": "DenseNet 100-24, of another paper",
    "densenet-190-40": "DenseNet 190-40, of another paper",
}
OTHERS_IMAGENET = {
    "densenet-264": "DenseNet-264, of another paper",
    "resnet-200": "ResNet-200, of another paper",
}
OTHERS_CUTOUT = {
    "nasnet-a-3.3": "NASNet-A, found by search",
    "nasnet-a-27.6": "NASNet-A, larger, found by search",
    "amoebanet-b-2.8": "AmoebaNet-B, found by search",
    "amoebanet-b-13.7": "AmoebaNet-B, larger, found by search",
    "amoebanet-b-34.9": "AmoebaNet-B, largest, found by search",
    "darts": "DARTS, found by search",
    "snas": "SNAS, found by search",
    "enas": "ENAS, found by search",
}
"""Rows of other papers' networks, which stand as printed."""
PARAMETERS = Metric("parameters", "million", "low", 2)


def error_of(data: str) -> Metric:
    """An error in percent."""
    return Metric(f"error on {data}", better="low")


ALIKE: Mapping[Scale, str] = {
    "smoke": "Digits, one epoch, depth 22, width 1, 3 templates.",
    "small": "Width 1 instead of 8; images of 16×16 pixels, means of 2×2, the first 40 % of each class; 6 epochs "
    "instead of 200; batches of 64 at 0.05 instead of 128 at 0.1.",
    "paper": "bfloat16 in products and norms. The poster tells no schedule: that of Zagoruyko 2016, without dropout.",
}
PATHS: Mapping[Scale, str] = {
    "smoke": "5 layers of 5 channels, 12 grids of 7×7 pixels and 4 steps a phase.",
    "small": "32 layers of 16 channels, grids of 16×16 pixels, 192 of them a phase, distances up to 12.",
    "paper": "100 layers, grids of 32×32 pixels and 50 epochs a phase are the poster's. Channels, residuals, the "
    "number of grids, their distances, how obstacles are drawn, AdamW and its rates are ours: the poster does not "
    "tell.",
}

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
            "small": "Widths 1, 1.5 and 2 instead of 10, 14 and 18, without dropout; images of 16×16 pixels, means of "
            "2×2, the first 30 % of each class; 5 epochs instead of 200, with the learning rate falling at the same "
            "fractions of them; batches of 64 at 0.05 instead of 128 at 0.1.",
            "paper": "bfloat16 in products and norms. The schedule is that of Zagoruyko 2016, which the poster does "
            "not tell.",
        },
        holds=lambda row, column: row not in OTHERS,
        note="* is trained with dropout of 0.3. SWRN L-w-k has k templates for each group of equal layers, SWRN L-w as "
        "many as layers. Parameters are of the network that is trained at each scale.",
    ),
    Table(
        name="savarese2019/imagenet",
        title="ImageNet: WRN 50-2 with one template for each layer",
        source="poster, table of ImageNet",
        rows={**OTHERS_IMAGENET, **{row: name for row, (name, _) in IMAGENET.items()}},
        columns={
            SIZE: {"params": PARAMETERS},
            "imagenet": {
                "imagenet/top1-error": Metric("top-1 error", better="low"),
                "imagenet/top5-error": Metric("top-5 error", better="low"),
            },
        },
        job=imagenet,
        printed=printed.TABLES["imagenet"],
        protocol={
            "smoke": "Digits, one epoch, WRN-16-1 and SWRN-16-1.",
            "small": "Width 1, images of 32×32 pixels, 1 % of the training images, a tenth of which are measured on, 1 "
            "epoch: it runs all of it, and is too small to compare the rows.",
            "paper": "The poster tells no schedule: 90 epochs of SGD, as ResNet-50 is usually trained, with squares "
            "cut at random places, not scales. bfloat16 in products and norms.",
        },
        holds=lambda row, column: row not in OTHERS_IMAGENET,
    ),
    Table(
        name="savarese2019/cutout",
        title="CIFAR-10 with cutout, beside architecture search",
        source="poster, table beside architecture search",
        rows={**OTHERS_CUTOUT, **{row: network.name for row, network in BESIDE.items()}},
        columns={
            SIZE: {"params": PARAMETERS},
            "cifar10": {"gpu_days": Metric("training time", "days of a GPU", "low", 3), "error": error_of("CIFAR-10")},
        },
        job=beside,
        printed=printed.TABLES["cutout"],
        protocol={
            "smoke": "Digits, one epoch, depth 16, widths 1 to 1.5.",
            "small": "Widths 1, 1.5 and 2 instead of 6, 10 and 14; images of 16×16 pixels, means of 2×2, with squares "
            "of 8×8 cut out, the first 20 % of each class; 5 epochs instead of 200; batches of 64 at 0.05 instead of "
            "128 at 0.1. Days are of one core.",
            "paper": "bfloat16 in products and norms. The schedule is that of Zagoruyko 2016, which the poster does "
            "not tell. Days are of whichever GPU trains.",
        },
        holds=lambda row, column: row not in OTHERS_CUTOUT,
    ),
    Table(
        name="savarese2019/figure-lsm",
        title="Layer similarity matrices of a trained SWRN 40-8-8, and its folding",
        source="poster, folding learned networks into explicitly recurrent forms",
        rows={row: name for row, (name, _) in ROWS.items()},
        columns=single(**FOLDED),
        job=alike,
        protocol=ALIKE,
        picture=draw_folded,
        note="The poster says that its network was folded to half as many layers, without a number for how near to 1 "
        "similarities had to be; the strength of the regulariser is ours. Folded networks are not trained on here.",
    ),
    Table(
        name="savarese2019/figure-evolution",
        title="Evolution of sharing patterns on CIFAR-10, the matrix regularised or not",
        source="poster, evolution of sharing patterns",
        rows={row: name for row, (name, _) in ROWS.items()},
        columns=single(**EVOLVED),
        job=no_job,
        like="savarese2019/figure-lsm",
        protocol=ALIKE,
        picture=draw_evolved,
    ),
    Table(
        name="savarese2019/figure-shortest-paths",
        title="Learning to search: all pixels on some shortest path, on paths that grow longer",
        source="poster, extrapolation bias",
        rows=TITLES,
        columns=single(**METRICS),
        job=paths,
        protocol=PATHS,
        picture=draw_paths,
        note="The poster has curves and no numbers. IoU: pixels both marked and on some shortest path over those that "
        "are either, on held-out grids. Distances above those of the last phase are never trained on. 'Fresh' rows see "
        "new grids in each step, so that nothing can be learnt by heart.",
    ),
    Table(
        name="savarese2019/figure-evolution-paths",
        title="Evolution of sharing patterns of a deep network on shortest paths, the matrix regularised or not",
        source="poster, evolution of sharing patterns",
        rows={row: title for row, title in TITLES.items() if row.startswith("templates") and not row.endswith(FRESH)},
        columns=single(similarity=METRICS["similarity"]),
        job=no_job,
        like="savarese2019/figure-shortest-paths",
        protocol=PATHS,
        picture=draw_evolved,
    ),
    Table(
        name="savarese2019/figure-marks",
        title="Shortest paths: what networks mark on grids that they have not seen",
        source="poster, extrapolation bias",
        rows=TITLES,
        columns=single(trained=METRICS["trained"], beyond=METRICS["beyond"]),
        job=no_job,
        like="savarese2019/figure-shortest-paths",
        protocol=PATHS,
        picture=draw_marks,
    ),
)
