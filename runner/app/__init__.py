"""Wiring: settings, and the only place that builds real objects and joins them."""
