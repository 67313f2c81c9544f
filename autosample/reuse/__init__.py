"""Exact fast execution: segments of a summary convolved once, window sums, selection; and which layers gain by it."""
