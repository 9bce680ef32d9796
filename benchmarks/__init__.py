"""Benchmarks of the service against a bare Pyramid view, in the same run: `python -m benchmarks`."""
