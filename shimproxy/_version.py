"""The version, alone in its module so that building needs no import of the rest."""

__version__ = "0.1.0"
