"""Sharing across depth: items are the layers of a repeated block."""
