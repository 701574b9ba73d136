"""`python -m weightshare` is the command line."""

from weightshare.cli import main

main()
