"""Sharing across values: items are the scalars of one weight, or of several.

| file | |
|---|---|
| `check.py` | what may be regularised, and how numbers are cut into independent problems |
| `pairwise.py` | the penalty, its subgradient, its conjugate, the distance to its subdifferential |
| `prox.py` | the proximal map, exact; the path over strengths |
| `binned.py` | the proximal map without sorting, with an error bound |
| `collisions.py` | the paper's three algorithms, for fidelity and comparison |
| `choice.py` | which weights are meant where nobody says |
| `clusters.py` | a weight as codebook and labels: its own values, k-means, quantiles |
| `codebook.py` | `Codebook`: weights that read a codebook, and its gradient |
| `measure.py` | distinct values, zeros and the penalty of each weight |
"""
