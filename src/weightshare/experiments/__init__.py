"""Experiments: the numbers of the papers, and ours beside them."""
