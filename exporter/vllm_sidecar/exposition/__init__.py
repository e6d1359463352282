"""Exposition text to samples and back; both text formats, independent of vLLM."""

from vllm_sidecar.exposition.parser import DifferentialParser
from vllm_sidecar.exposition.writer import (
    CONTENT_TYPE_OPENMETRICS,
    CONTENT_TYPE_TEXT,
    Family,
    Renderer,
    labels_text,
    number,
)

__all__ = [
    "CONTENT_TYPE_OPENMETRICS",
    "CONTENT_TYPE_TEXT",
    "DifferentialParser",
    "Family",
    "Renderer",
    "labels_text",
    "number",
]
