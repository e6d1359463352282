"""All communication with one vLLM server: one GET with a deadline, the poll of its metrics, and the probes.

client -> scraper -> exposition -> mapping -> normalize -> readings under canonical names
"""
