"""beyond."""

from weightshare.experiments.table import Table

TABLES: tuple[Table, ...] = ()
