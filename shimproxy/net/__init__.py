"""Sockets and time, without SMTP: legs, waits with deadlines, listening, dialling, closing.

What goes over a leg is octets to everything here.
"""
