"""Octets and grammar of SMTP (RFC 5321): no sockets, no clock, no logging.

Everything here is a pure function or a small object that is fed octets. It knows neither legs nor sessions,
so that a test can feed it octet by octet.
"""
