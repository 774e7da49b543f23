"""Benchmarks: one module each, both sides in one run. ``python -m benchmarks.NAME [--json FILE] [--quick]``."""
