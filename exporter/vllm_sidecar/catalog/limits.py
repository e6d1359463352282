"""Limits on what is read of one server: what exceeds them is left out, and the rest is used."""

from __future__ import annotations

from typing import Final

LIMITS: Final[dict[str, str]] = {
    "lines": "Lines of a body after the first 200,000.",
    "line_length": "Lines of more than 1 MiB.",
    "names": "Sample names after the first 3,000, and families after as many.",
    "series_per_name": "Series of one sample name after the first 10,000.",
    "name_length": "Lines with a metric or label name of more than 256 characters.",
    "labels": "Series with more than 64 labels.",
    "label_length": "Series of vLLM with a label value of more than 512 characters, except lists of LoRA adapters.",
    "number_length": "Lines with a number of more than 128 characters.",
    "buckets": "Finite buckets of a histogram beyond 128; neighbors are merged, so that all observations remain.",
    "series_per_signal": "Series of one labeled signal of one engine, model or server after the first 1,000, such as "
    "HTTP routes; routes that reach an engine are read first.",
    "copies": "Series of API servers of one signal of one engine after the first 1,000 servers.",
    "engines": "Series of engines after the first 256 (fewer under a memory limit: docs/performance.md), and after the "
    "first 512 sets of labels.",
    "adapters": "LoRA adapters with a name of more than 512 characters, or after the first 10,000.",
    "families": "Names of unknown vLLM families after the first 100; they are counted and not listed.",
    "models": "Models and adapters of /v1/models after the first 1,000 (in metrics the first 200).",
}
"""Name of a limit -> what is left out. Further limits: `scrape.max_body_size` refuses a whole body, `limits.adapters`
is about exported adapters, and answers of probes may have 4 MiB."""
