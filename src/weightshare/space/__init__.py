"""Sharing across space: items are the positions of one layer, its neurons."""
