"""savarese2019."""

from weightshare.experiments.table import Table

TABLES: tuple[Table, ...] = ()
