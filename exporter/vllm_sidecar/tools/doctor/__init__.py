"""One diagnosis of a server from the states and signals of the sidecar, with what is unknown."""
