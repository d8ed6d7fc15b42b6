"""Fuzzing of everything that parses: `python -m tests.fuzz --seconds 60`.

Each target is a parser with what is known of it: a naive second implementation, which shares no code with it, the
errors that it may raise, and how many steps an octet may cost. Hypothesis makes the inputs, and keeps those that visit
places of the parser that no other has visited (engine.py); what fails is made small.
"""
