"""`shimproxy probe`: how a receiver behaves, found out by talking to it, and which programs behave like that.

It is a client of its own, made to see what a well-behaved client never sees: it knows no session of shimproxy.
"""
