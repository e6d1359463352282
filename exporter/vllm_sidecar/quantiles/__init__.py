"""What a histogram observed over the polls of a window -> quantiles finer than its buckets.

Each poll tells the counts per bucket and the sum of what was observed since the one before. Together the polls of a
window tell much more than their counts: a poll with one observation tells its value, polls that fall into one bucket
tell its mean, and how the sums scatter tells how wide the values lie within the buckets.

    evidence   the polls of a window, in the buckets that hold anything
    shape      where values lie in a bucket, as the counts of its neighbours suggest
    support    where the values of the outermost buckets end, as far as the sums speak for an end
    drift      how the mean of a bucket moves from poll to poll, as the counts around it suggest
    equations  the least squares that the means are found by
    moments    mean and variance per bucket, within polls and between them, that explain the sums
    nodes      values that stand for a bucket with that mean and variance
    groups     which buckets hold two groups of values
    reading    what the sum of a poll says of its observations, where it is known how they usually lie
    settle     what was read, moved so that the observations of each poll add up to its sum
    refine     how they usually lie, learnt from polls of few observations; all polls read with it
    moving     or: a lognormal whose scale moves from poll to poll, and how far that foretells the counts
    order      the quantiles: order statistics of what was read

    curve      the density of largest entropy for a mean
    linear     ranks in buckets, and Prometheus's answer
    share      the estimate read backwards: how much lies below a threshold

The order is that of the computation, the last three serve the others or the program; `estimate` runs it, for both
models where the second is believed in part.

Arrays are small, so most of what an estimate takes is the number of calls of numpy. That hardly grows with the number
of histograms, which stand side by side in them from `moments` to `refine`: all latencies of an engine are estimated in
half the time that each alone would take together.
"""

from __future__ import annotations

from vllm_sidecar.quantiles.estimator import Quantile, bucket_edges, estimate, estimates, window_quantiles
from vllm_sidecar.quantiles.share import count_up_to, edge_of

__all__ = ["Quantile", "bucket_edges", "count_up_to", "edge_of", "estimate", "estimates", "window_quantiles"]
