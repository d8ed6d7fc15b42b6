"""What an operator sets: flags, variables and files, read and checked once.

It imports what it configures, so that each default stands there, once. Nothing that it configures imports it.
"""
