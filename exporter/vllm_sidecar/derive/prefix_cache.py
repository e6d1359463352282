"""Hit ratios of the prefix caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_sidecar.derive.inputs import EngineInputs

CACHES = {
    "local": ("prefix_cache_hit_tokens_total", "prefix_cache_queried_tokens_total"),
    "external": ("external_prefix_cache_hit_tokens_total", "external_prefix_cache_queried_tokens_total"),
    "multimodal": ("multimodal_cache_hit_items_total", "multimodal_cache_queried_items_total"),
}


def hit_ratio(engine: EngineInputs) -> dict[str, float]:
    """Return hits / queries in the window by cache; a cache without queries is absent, not 0.

    Up to vLLM 0.26 a request that cannot be admitted is looked up again at every step, which moves the ratio towards
    that of waiting requests.
    """
    ratios = {}
    for cache, (hits, queries) in CACHES.items():
        asked, hit = engine.window.increase(queries), engine.window.increase(hits)
        if asked and hit is not None:
            ratios[cache] = min(1.0, hit / asked)
    return ratios
