"""Make what is missing of results/savarese2019/cifar10, from images that you have.

python results/savarese2019/cifar.py CIFAR10.npz OUT [ROW:SEED ...]

CIFAR10.npz is of `weightshare data SOURCE --to FILE.npz`, or `cifar10` where that is found by its name; OUT is for run
directories. With `ROW:SEED` that run alone is trained, to share work among processes; without, all that is missing is,
and results are written.
"""

from pathlib import Path
import sys

from weightshare.experiments.studies.savarese2019_cifar import PAPER, ROWS, TABLE, config
from weightshare.experiments.studies.savarese2019_cifar_results import cifar
from weightshare.files.atomic import write_text
from weightshare.training.run import run

RESULTS = Path(__file__).resolve().parents[1]
SEEDS = (0, 1)

if __name__ == "__main__":
    data, out, *runs = sys.argv[1:]
    for one in runs:
        row, seed = one.split(":")
        run(config(row, int(seed), out, data), label=one)
    if not runs:
        write = lambda text: write_text(RESULTS / PAPER / TABLE / "table.txt", text + "\n")  # noqa: E731
        cifar(out, dict.fromkeys(ROWS, SEEDS), RESULTS, data, echo=write)
