"""The one client of SMTP: how shimproxy itself asks a receiver, with deadlines and TLS, outside of sessions."""
