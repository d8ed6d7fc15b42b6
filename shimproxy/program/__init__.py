"""What every command has from its process: a terminal, an interruption, output that may be lost, and open files.

It knows nothing of mail, and imports nothing of shimproxy.
"""
