"""One screen for a server or a fleet: states, load and latencies, refreshed each second; also once, for scripts.

    feeds -> servers (values of each server) -> pages (lines for a size) -> terminal_screen

Pages are pure functions of values, of the `View` that keys change, and of the size of the terminal.
"""
