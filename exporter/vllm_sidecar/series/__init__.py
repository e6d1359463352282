"""State between polls: readings, windows, restarts, progress and the counters of objectives."""
