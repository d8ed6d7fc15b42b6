"""What is kept of a session after its end: files of records, and ladders drawn from them.

Everything here can be written, read and drawn without a session that runs.
"""
