"""Run the demo and put its real output into the README: the table, the pictures and the committed results.

python docs/refresh_readme.py [RUNS]
"""

from pathlib import Path
import sys

from weightshare.analysis.pictures import draw_assignment
from weightshare.experiments.studies import digits
from weightshare.training.data import load_data
from weightshare.training.run import prepared

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- demo:begin -->\n", "<!-- demo:end -->\n"


def main(runs: Path) -> None:
    """Refresh `README.md`, `docs/images/` and `results/`."""
    results = digits.demo(runs)
    for result in results:
        result.write(ROOT / "results")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    shown = f"```text\n{digits.table(results)}\n```\n"
    (ROOT / "README.md").write_text(f"{before}{BEGIN}{shown}{END}{after}", encoding="utf-8")

    images = ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    _, plans = prepared(digits.config(runs, "tied", 0, digits.RECIPE), load_data("digits"))
    draw_assignment(plans[0]).savefig(images / "assignment.png", dpi=150)
    curves = digits.accuracy_curves(digits.histories(runs, results[0].seeds))
    curves.savefig(images / "accuracy.png", dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
