"""Exact fast execution: segments of a summary convolved once, window sums, selection; and which layer gains by it."""
