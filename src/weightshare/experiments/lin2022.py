"""lin2022."""

from weightshare.experiments.table import Table

TABLES: tuple[Table, ...] = ()
