"""What the service costs, measured beside a bare Pyramid view in the same run: `python -m benchmarks`."""
