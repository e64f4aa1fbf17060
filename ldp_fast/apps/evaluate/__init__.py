"""Measures what was made."""
