"""Metrics of all targets, pushed over OTLP.

push       one push after the other: when, its outcome, own metrics
resource   attributes of the process that pushes
points     snapshots -> the values of the chosen metrics
streams    values -> values with their start time, or increases; series that end
narrow     observations of the polls -> exponential histograms
encoding   the request as protobuf; the only module that needs the extra `otlp`
client     one request, one outcome
"""
