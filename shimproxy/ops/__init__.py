"""Run it and see it: settings, listeners and signals, the journal, the demonstration."""
