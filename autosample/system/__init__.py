"""Helpers around the machine and the terminal: atomic files, tables, timing, checks of outside data."""
