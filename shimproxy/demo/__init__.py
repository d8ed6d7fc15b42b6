"""`shimproxy demo`: the fault of kb-q152940 on real sockets, without shimproxy and with it, drawn while it happens.

It serves as any program that embeds shimproxy, and judges what it has seen itself.
"""
