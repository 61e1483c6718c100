"""Kinds of engines as CONTRIBUTING.md has them: a folder each, and nothing else."""
