"""Make what is missing of results/lin2022/resnets*, from weights and images that you have.

python results/lin2022/resnets.py WEIGHTS EXACT.npz JPEG.npz OUT [STEP ...]

WEIGHTS holds resnet20*.th to resnet56*.th, as torch saved them; each .npz is of `weightshare data
SOURCE --to FILE.npz`; OUT is for run directories. A STEP is `starts`, `rates`, `train`, or `train:NETWORK:ARM:SEED`,
to share work among processes; `starts`, `rates` and `train` if none is named.
"""

from pathlib import Path
import sys

import torch

from weightshare.experiments.studies.lin2022_resnets import ARMS, NETWORKS, PAPER, TABLE, config
from weightshare.experiments.studies.lin2022_resnets_results import Sets, rates, starts, train
from weightshare.files.atomic import write_text
from weightshare.training.run import run

RESULTS = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)

if __name__ == "__main__":
    folder, exact, jpeg, out, *steps = sys.argv[1:]
    sets = Sets(exact, jpeg)
    for step in steps or ("starts", "rates", "train"):
        if step == "starts":
            files = {network: next(Path(folder).glob(f"{network}*.th")) for network in NETWORKS}
            states = {
                name: torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
                for name, path in files.items()
            }
            write = lambda text: write_text(RESULTS / PAPER / TABLE / "fusions.txt", text + "\n")  # noqa: E731
            starts(states, sets, out, RESULTS, echo=write)
        elif step == "rates":
            rates(sets, out, RESULTS)
        elif step == "train":
            write = lambda text: write_text(RESULTS / PAPER / TABLE / "table.txt", text + "\n")  # noqa: E731
            train({network: tuple(ARMS) for network in NETWORKS}, SEEDS, sets, out, RESULTS, echo=write)
        else:
            _, network, arm, seed = step.split(":")
            run(config(network, arm, int(seed), out, exact))
