"""Stage 5: pure functions from windows to values; None, or an empty mapping, where nothing can be said."""
