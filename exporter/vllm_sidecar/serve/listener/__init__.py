"""Everything between a socket and a handler: listening, connections and their limits, TLS, passwords, counting."""
