"""Experiments: single runs with records, the quickstart, plots."""
