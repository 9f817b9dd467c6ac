"""Pure rules: values in, values out. No clock, no I/O, no randomness: they are passed in."""
