"""`python -m weightshare.cli`, as `weightshare`."""

from weightshare.cli import main

main()
