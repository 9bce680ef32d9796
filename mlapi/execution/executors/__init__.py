"""Executors, which start and stop runners. `base` is their interface, `local` runs them on this machine."""
