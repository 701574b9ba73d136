"""Hypothesis: the same examples in every run, a few dozen of them."""

from hypothesis import settings

settings.register_profile("weightshare", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("weightshare")
