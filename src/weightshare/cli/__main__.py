"""`python -m weightshare.cli`, as `weightshare`."""

from weightshare.cli.commands import main

main()
