"""One process that serves: sockets, who is admitted, and the sessions until the last has ended.

It knows nothing of other processes, of signals and of commands: a program that embeds shimproxy calls it.
"""
