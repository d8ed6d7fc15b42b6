"""Deliberate defects, and whether a test catches each: `python -m tests.defects`."""
