"""Stage 4: what a histogram observed over the polls of a window -> quantiles finer than its buckets.

Each poll tells the counts per bucket and the sum of what was observed since the one before. Together the polls of a
window tell much more than their counts: a poll with one observation tells its value, polls that fall into one bucket
tell its mean, and how the sums scatter tells how wide the values lie within the buckets.

    evidence   the polls of a window, in the buckets that hold anything
    shape      where values lie in a bucket, as the counts of its neighbours suggest
    moving     or: a lognormal whose scale moves from poll to poll, and how far that foretells the counts
    drift      how the mean of a bucket moves from poll to poll, as the counts around it suggest
    moments    mean and variance per bucket, within polls and between them, that explain the sums
    sample     a sample that agrees with all of it, of which a quantile is an order statistic

The order is that of the computation; `estimate` runs it, for both beginnings where the second is believed in part.
"""

from __future__ import annotations

from vllm_sidecar.distribution.estimate import Quantile, bucket_edges, estimate, window_quantiles
from vllm_sidecar.distribution.share import count_up_to, edge_of

__all__ = ["Quantile", "bucket_edges", "count_up_to", "edge_of", "estimate", "window_quantiles"]
