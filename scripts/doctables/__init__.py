"""The tables of README.md and docs/. Each function reads records in results/ and returns Markdown."""
