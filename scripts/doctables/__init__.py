"""The tables of README.md and docs/: each function reads records under results/ and returns Markdown."""
