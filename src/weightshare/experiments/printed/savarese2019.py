"""The tables of Savarese 2019, as its poster prints them: parameters in millions, errors in percent, days of a GPU."""

from weightshare.experiments.printed import Table, table

CUT = "We count {} million, which rounds to {}: the poster's tables of CIFAR cut, where that of ImageNet rounds."

# fmt: off
CIFAR: dict[str, tuple[float, ...]] = {
    "resnext-29-16x64": (68, 3.58, 17.31),
    "densenet-100-24": (27, 3.74, 19.25),
    "densenet-190-40": (26, 3.46, 17.18),
    "wrn-28-10-plain": (36, 4.0, 19.25),
    "wrn-28-10": (36, 3.89, 18.85),
    "swrn-28-10": (36, 3.88, 18.43),
    "swrn-28-10-2": (17, 3.75, 18.66),
    "swrn-28-14": (71, 3.67, 18.25),
    "swrn-28-14-2": (33, 3.69, 18.37),
    "swrn-28-18": (118, 3.48, 17.43),
    "swrn-28-18-2": (55, 3.43, 17.75),
}
# fmt: on
"""Parameters, errors on CIFAR-10 and CIFAR-100. All WRN and SWRN have dropout of 0.3 but the plain one."""

# fmt: off
IMAGENET: dict[str, tuple[float, ...]] = {
    "wrn-50-2": (69, 22.0, 6.05),
    "densenet-264": (33, 22.15, 6.12),
    "resnet-200": (65, 21.66, 5.79),
    "swrn-50-2": (69, 21.74, 5.95),
}
# fmt: on
"""Parameters, top-1 and top-5 error."""

# fmt: off
CUTOUT: dict[str, tuple[float, ...]] = {
    "nasnet-a-3.3": (3.3, 1800, 2.65),
    "nasnet-a-27.6": (27.6, 1800, 2.4),
    "amoebanet-b-2.8": (2.8, 3150, 2.55),
    "amoebanet-b-13.7": (13.7, 3150, 2.31),
    "amoebanet-b-34.9": (34.9, 3150, 2.13),
    "darts": (3.4, 4, 2.83),
    "snas": (2.8, 1.5, 2.85),
    "enas": (4.6, 0.45, 2.89),
    "wrn-28-10": (36.4, 0.4, 3.08),
    "swrn-28-6-2": (6.1, 0.25, 3.0),
    "swrn-28-10-2": (17.1, 0.4, 2.69),
    "swrn-28-14-2": (33.5, 0.7, 2.53),
}
# fmt: on
"""Parameters, days of a GPU and error on CIFAR-10; WRN and SWRN with cutout."""

TABLES: dict[str, Table] = {
    "cifar": table(
        "poster, table of CIFAR",
        ("params", "cifar10/error", "cifar100/error"),
        CIFAR,
        {
            ("swrn-28-14-2", "params"): CUT.format("33.54", "34")
            + " The table beside architecture search has 33.5, as read here, too.",
        },
    ),
    "imagenet": table("poster, table of ImageNet", ("params", "imagenet/top1-error", "imagenet/top5-error"), IMAGENET),
    "cutout": table(
        "poster, table beside architecture search",
        ("params", "gpu_days", "error"),
        CUTOUT,
        {
            ("wrn-28-10", "params"): CUT.format("36.48", "36.5"),
            ("swrn-28-6-2", "params"): CUT.format("6.18", "6.2"),
        },
    ),
}
"""The poster's three tables."""

MISPRINTS: dict[str, str] = {
    "one template per layer": "k = (L − 4)/3 − 2 is no whole number for SWRN 50-2, 13 1/3: its groups are of other "
    "sizes. Read as one template a layer in each group, whose 69 million parameters are those printed.",
    "two templates are even better": "Said of CIFAR-10 for SWRN 28-XX-2; at width 14 they are worse: 3.69, not 3.67.",
}
"""What else the poster gets wrong or says in two ways."""
