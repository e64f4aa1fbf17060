"""Benchmarks of the operators: `pytest benchmarks`; see `benchmarks/conftest.py`."""
