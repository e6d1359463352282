"""The traffic of a server as a load profile, and as inputs of load-testing tools.

sources     a server, a sidecar, a recording or Prometheus -> polls
traffic     polls -> the work of each engine between two of them
arrivals    when requests arrived
lengths     prompt and output tokens of each request
pairing     which of them belong together, where polls leave that open
sharing     tokens that requests share with earlier ones, and their adapters
builder     all of it -> a profile
profile     the schema of a profile
likeness    a profile against another one
exports     a profile -> the files of one tool
"""
