"""The tables of Lin 2022's supplement (SPIN), and accuracies in captions: parameters in millions, FLOPs in G, percent.

A cell that the paper prints once for several rows stands in each of them. Figures 2 and 1 have no numbers.
"""

from weightshare.experiments.printed import Table, table

METRICS = ("params", "flops", "top1")
CAPTION = ("top1",)

# fmt: off
DEIT: dict[str, tuple[float, ...]] = {
    "deit-ti": (5.72, 1.26, 72.55),
    "deit-ti-depth6": (3.05, 0.64, 63.11),
    "deit-ti-depth4": (2.16, 0.44, 55.61),
    "ws-deit-ti-2": (3.05, 1.26, 68.07),
    "ws-deit-ti-3": (2.16, 1.26, 63.50),
    "ws-deit-ti-2-mean": (3.05, 1.26, 67.96),
    "ws-deit-ti-3-mean": (2.16, 1.26, 63.75),
    "ws-deit-ti-2-scalar": (3.05, 1.26, 68.62),
    "ws-deit-ti-3-scalar": (2.16, 1.26, 63.74),
    "deit-s": (22.05, 4.61, 80.52),
    "deit-s-depth6": (11.40, 2.33, 74.48),
    "deit-s-depth4": (7.85, 1.58, 67.77),
    "ws-deit-s-2": (11.41, 4.61, 78.61),
    "ws-deit-s-3": (7.87, 4.61, 76.67),
    "ws-deit-s-2-mean": (11.41, 4.61, 79.44),
    "ws-deit-s-3-mean": (7.87, 4.61, 77.11),
}
# fmt: on
"""Table 1: DeiT on ImageNet; `ws` and a share rate, `mean` or `scalar` (scalar weighted mean) for a fused start."""

# fmt: off
PARTS: dict[str, tuple[float | str, ...]] = {
    "unshared": (20.5, 5.03, 74.93),
    "shared-bn-bias-dw-pw": (10.84, 5.03, "Diverged"),
    "shared-bias-dw-pw": (10.89, 5.03, 73.17),
    "shared-dw-pw": (10.92, 5.03, 73.19),
    "shared-pw": (11.02, 5.03, 73.29),
}
# fmt: on
"""Table 2: ConvMixer 768/32/14/3 at a share rate of 2, by what is shared: batch norm, biases, depthwise, pointwise."""

# fmt: off
FUSION: dict[str, tuple[float, ...]] = {
    "unshared": (20.5, 5.03, 75.71),
    "tied-2": (10.84, 5.03, 74.29),
    "random-first-2": (10.84, 5.03, 74.25),
    "random-mean-2": (10.84, 5.03, 74.25),
    "first-2": (10.84, 5.03, 74.88),
    "fused-2": (10.84, 5.03, 75.28),
}
# fmt: on
"""Table 3: the same network; tied, fused from random weights by choosing the first or by the mean, and from trained
ones likewise."""

CAPTIONS: dict[str, dict[str, float]] = {
    "fig3": {"rate-2": 73.29, "rate-4": 70.11, "rate-8": 66.31},
    "fig4a": {"unshared": 67.48, "rate-2": 65.04, "rate-4": 59.34, "rate-8": 52.95},
    "fig4b": {"unshared": 75.71, "rate-2": 75.14, "rate-4": 67.15, "rate-8": 59.69},
    "fig4c": {"unshared": 78.03, "rate-2": 78.47, "rate-4": 75.76, "rate-8": 71.4},
}
"""Captions: 768/32/14/3 tied (fig. 3); 512/16/14/9, 768/32/14/3 and 1536/20/7/3 fused (fig. 4). That the rates of
figure 4 are 2, 4 and 8 is said in F.2."""

OTHER_SETTINGS = "Table 3's caption says that its settings differ a little, so both stand."
POINTWISE = (
    "Table 2 has 11.02 for sharing pointwise convolutions, the paper's setting, and 10.84 for sharing everything, "
    "which diverges: read as 11.02."
)
_CAPTION_MISPRINTS: dict[str, dict[tuple[str, str], str]] = {
    "fig3": {("rate-2", "top1"): f"As in table 2; table 3 has 74.29. {OTHER_SETTINGS}"},
    "fig4b": {
        ("unshared", "top1"): f"As in table 3; table 2 has 74.93. {OTHER_SETTINGS}",
        ("rate-2", "top1"): "Table 3 has 75.28 for the same network, which we compare with.",
        ("rate-4", "top1"): "Below figure 3's 70.11 without fusion, which the text says helps; it stands as printed.",
        ("rate-8", "top1"): "Below figure 3's 66.31 without fusion, which the text says helps; it stands as printed.",
    },
}

TABLES: dict[str, Table] = {
    "table1": table("table 1", METRICS, DEIT),
    "table2": table(
        "table 2",
        METRICS,
        PARTS,
        {
            ("unshared", "top1"): f"Table 3 and figure 4b have 75.71. {OTHER_SETTINGS}",
            ("shared-pw", "top1"): f"Table 3 has 74.29. {OTHER_SETTINGS}",
            ("shared-pw", "params"): "Without the biases, as the row says, it is 11,028,712, or 11.03; 11,016,424 has "
            "pointwise biases shared, too, and is how we read it.",
        },
    ),
    "table3": table(
        "table 3",
        METRICS,
        FUSION,
        {
            **{(row, "params"): POINTWISE for row in FUSION if row != "unshared"},
            ("unshared", "top1"): f"Table 2 has 74.93. {OTHER_SETTINGS}",
            ("tied-2", "top1"): f"Table 2 and figure 3 have 73.29. {OTHER_SETTINGS}",
            ("fused-2", "top1"): "Figure 4b has 75.14 for the same network; this one is what we compare with.",
        },
    ),
    **{
        figure: table(
            f"caption of figure {figure.removeprefix('fig')}",
            CAPTION,
            {row: (accuracy,) for row, accuracy in rows.items()},
            _CAPTION_MISPRINTS.get(figure),
        )
        for figure, rows in CAPTIONS.items()
    },
}
"""The supplement's three tables, and the captions of figures 3 and 4."""

MISPRINTS: dict[str, str] = {
    "equation 1": "As printed it is 0 for every network, since it ends in Ω_S(0, ·, P) = 0; read as 1 for P ≥ 0.",
    "exactly P": "Ω(L, P) − Ω(L, P − 1) over-counts maps that use exactly P weights: it is 19 for 3 layers and 3 "
    "weights, of which there are 6. Surjections are counted instead, with the paper's version beside them.",
    "section B, within 1 point": "WS-DeiT-S at half the parameters is 1.91 points below DeiT-S in table 1, and 1.08 "
    "with the mean of trained weights.",
    "section B, consistently": "Fusion is said to help consistently; by the mean, WS-DeiT-Ti at rate 2 loses 0.11 in "
    "table 1.",
    "table 1, caption": "All models are said to come from DeiT-Ti; seven rows are DeiT-S, which has 12 layers, too.",
    "section D, order": "Parts are said to be in the order of their numbers; by table 2 itself batch norm has 0.05 "
    "million of them, biases 0.03 and depthwise convolutions 0.10.",
    "section F.2, sizes": "2/16/14/9 and 1536/20/14/3 are 512/16/14/9 and 1536/20/7/3 everywhere else.",
}
"""What else the supplement gets wrong or says in two ways."""
