"""Make what is missing of results/savarese2019/folding.

python results/savarese2019/folding.py OUT

OUT is for run directories. Digits come with scikit-learn.
"""

from pathlib import Path
import sys

from weightshare.experiments.studies.savarese2019_folding import folding

if __name__ == "__main__":
    folding(sys.argv[1], Path(__file__).resolve().parents[1])
