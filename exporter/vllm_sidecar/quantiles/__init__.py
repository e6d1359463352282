"""Observations of a histogram over the polls of a window -> quantiles finer than its buckets.

Each poll has the counts per bucket and the sum of what was observed since the one before. A poll with one observation
contains its value, polls that fell into one bucket contain its mean, and how the sums scatter shows how wide the values
are spread within the buckets. docs/percentiles.md has the model.

    buckets     what a poll observed; ranks, and the straight line that Prometheus draws
    estimator   what the rest of the program calls; needs no numpy until there is something to estimate
    model       runs the stages below, and reads order statistics off the posterior

    evidence    the polls as arrays, histograms side by side
    prior       where values are in a bucket, as the counts of its neighbors suggest
    fit         mean and variance per bucket, within polls and between them, that explain the sums
    level       or: one lognormal whose level moves from poll to poll, as far as it predicts the counts
    posterior   values that the observations of each poll may have had, given its sum
"""

from vllm_sidecar.quantiles.buckets import Observed, bucket_bounds, bucket_ending_at
from vllm_sidecar.quantiles.estimator import (
    BucketEstimate,
    Explanation,
    Quantile,
    count_up_to,
    estimate,
    estimates,
    explain,
    is_loaded,
    load,
    window_quantiles,
)  # fmt: skip

__all__ = [
    "BucketEstimate", "Explanation", "Observed", "Quantile", "bucket_bounds", "bucket_ending_at", "count_up_to",
    "estimate", "estimates", "explain", "is_loaded", "load", "window_quantiles",
]  # fmt: skip
