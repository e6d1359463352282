"""Pure functions from windows to values; None, or an empty mapping, where the value is unknown."""
