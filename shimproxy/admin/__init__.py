"""What an operator or a monitor asks a running shimproxy: health, metrics, the status page, and who asks.

It shows and changes nothing. It knows what was counted and kept, not who counts.
"""
