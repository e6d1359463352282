"""A vLLM simulator: a discrete-event model of continuous batching behind vLLM's own endpoints.

For demos, for tests of paging, and for the tests of rules and dashboards. It is a model, not a random walk: admission
depends on free KV blocks and on `max_num_seqs`, the time of a step on its tokens, a preemption computes again what it
lost, and prefix hits come from blocks that are really shared. Signals therefore relate to each other as on a real
server.
"""
