"""Peers that break SMTP on purpose, on real sockets: the faulty receivers and senders of the catalogue.

The tests, the demo and `shimproxy misbehave` play the same ones. Each peer is a straight line of blocking calls in a
thread of its own. The room knows the catalogue (smtp/) and sockets (net/); it knows nothing of sessions.
"""
