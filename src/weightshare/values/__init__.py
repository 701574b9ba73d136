"""Sharing across values: items are the scalars of one weight, or of several.

| file | |
|---|---|
| `check.py` | what may be regularised, and how numbers are cut into independent problems |
| `pairwise.py` | the penalty, its subgradient, its conjugate, the distance to its subdifferential |
| `prox.py` | the proximal map, exact; the path over strengths |
| `binned.py` | the proximal map without sorting, with an error bound |
| `particles.py` | which weights of a parameter are one problem |
| `proximal.py` | `Proximal`: the map after every step of an optimizer |
| `baselines.py` | what it is compared with: the subgradient, β-lasso |
| `groups.py` | the general penalty `R_C`; the proximal map for groups of scalars |
| `coupling.py` | which items pull at each other: `C` as a matrix, or as edges |
| `convex.py` | convex clustering of rows, such as whole filters; `newton.py` is what it is solved with |
| `graph.py` | total variation on a graph of scalars, by maximum flows |
| `collisions.py` | the paper's three algorithms, for fidelity and comparison |
| `choice.py` | which weights are meant where nobody says |
| `clusters.py` | a weight as codebook and labels: its own values, k-means, quantiles |
| `codebook.py` | `Codebook`: weights that read a codebook, and its gradient |
| `measure.py` | distinct values, zeros and the penalty of each weight |
| `solve.py` | linear regression with the penalty, three methods, a certificate |
| `refine.py` | linear regression with rewinding; least squares on found clusters |
"""
