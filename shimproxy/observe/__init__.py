"""What can be seen of sessions while they run: events in the log, and figures.

It is told by sessions and asks nothing of them. It knows no settings: what it goes by is handed in.
"""
