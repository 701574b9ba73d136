"""Pogodin 2021."""

from weightshare.experiments.table import Table

TABLES: tuple[Table, ...] = ()
