"""Loops, data, recipes and run directories: what turns a shared model into a trained one."""
