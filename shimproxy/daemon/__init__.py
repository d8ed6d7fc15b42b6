"""`shimproxy run` as a service: a supervisor, its workers, reloads, upgrades, signals, and notices to systemd.

It alone knows that there are several processes. Each worker serves as any program would that embeds shimproxy.
"""
