"""The dialogue: the only place where both legs meet."""
