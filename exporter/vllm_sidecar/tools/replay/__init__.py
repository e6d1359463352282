"""Plays a recording through the sidecar and its rules, at the times of the recording."""
