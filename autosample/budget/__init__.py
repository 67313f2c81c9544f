"""Budgets in the user's terms: stored bytes, or milliseconds of the deployed model, become a ratio."""
