"""inference-perf: a trace of times and lengths, or shared prefixes. Source: its configuration of release 0.6.1."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_sidecar.tools.shape.profile import Profile

LIMITS = (
    "times and lengths, or shared prefixes, but not both at once; times are whole hundredths of a second; the second "
    "file has lognormal lengths without correlation, and Poisson arrivals at the mean rate"
)
TRACE = "inference-perf-trace.csv"


def files(profile: Profile, url: str) -> dict[str, str]:
    """Return the configuration of a replay of times and lengths, its trace, and a configuration with prefixes."""
    load: dict[str, Any] = {"type": "trace_replay", "trace": _reference(), "base_seed": 1}
    # A stage is required, and ends when the trace does.
    load["stages"] = [
        {"rate": max(0.001, profile.arrivals.per_second), "duration": max(1, round(profile.window.seconds))}
    ]
    found = {
        "inference-perf.yaml": _dumped(profile, url, {"type": "random", "trace": _reference()}, load),
        TRACE: _trace(profile),
    }
    if profile.prefix.hit_ratio:
        stages = {"type": "poisson", "stages": [_stage(profile)], "interval": 0.0, "base_seed": 1}
        data = {"type": "shared_prefix", "shared_prefix": _prefix(profile)}
        found["inference-perf-prefix.yaml"] = _dumped(profile, url, data, stages)
    return found


def _reference() -> dict[str, str]:
    return {"file": TRACE, "format": "AzurePublicDataset"}


def _dumped(profile: Profile, url: str, data: dict[str, Any], load: dict[str, Any]) -> str:
    if profile.adapters:
        load["lora_traffic_split"] = _split(profile)
    return yaml.safe_dump(
        {
            "api": {"type": "completion", "streaming": profile.streaming_ratio != 0.0},
            "server": {"type": "vllm", "model_name": profile.model, "base_url": url, "ignore_eos": True},
            "tokenizer": {"pretrained_model_name_or_path": profile.model},
            "data": data,
            "load": load,
            "report": {"request_lifecycle": {"summary": True, "per_stage": True, "per_request": True}},
        },
        sort_keys=False,
    )


def _split(profile: Profile) -> list[dict[str, Any]]:
    """Return shares that add up to exactly 1, with the base model as the rest."""
    shares = {**profile.adapters, profile.model: max(0.0, 1.0 - sum(profile.adapters.values()))}
    whole = sum(shares.values())
    parts = {name: round(1024 * share / whole) for name, share in shares.items()}  # sums of n/1024 have no rounding
    largest = max(parts, key=parts.__getitem__)
    parts[largest] += 1024 - sum(parts.values())
    return [{"name": name, "split": part / 1024} for name, part in parts.items() if part]


def _trace(profile: Profile) -> str:
    began = datetime.fromtimestamp(profile.window.started or 0.0, UTC)
    replay = profile.replay
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for at, prompt, output in zip(replay.at, replay.prompt_tokens, replay.output_tokens, strict=True):
        rows.append(f"{began + timedelta(seconds=at):%Y-%m-%d %H:%M:%S.%f},{prompt},{output}")
    return "\n".join(rows) + "\n"


def _stage(profile: Profile) -> dict[str, float]:
    """Return the only stage: each one begins with the first prompt again, which the cache would have by then."""
    count, seconds = len(profile.replay.at), max(1, round(profile.window.seconds))
    # It sends int(rate * duration) requests.
    return {"rate": round((count + 0.5) / seconds, 6), "duration": seconds}


def _prefix(profile: Profile) -> dict[str, Any]:
    replay, groups = profile.replay, profile.prefix.prefixes
    shared = round((profile.prefix.hit_ratio or 0.0) * fmean(replay.prompt_tokens))
    rest = [max(1, prompt - shared) for prompt in replay.prompt_tokens]
    return {
        "num_groups": groups,
        "num_prompts_per_group": -(-len(rest) // groups),
        "system_prompt_len": shared,
        "question_len": _distribution(rest),
        "output_len": _distribution(replay.output_tokens),
        "seed": 1,
    }


def _distribution(values: Sequence[int]) -> dict[str, Any]:
    return {
        "type": "lognormal",
        "min": min(values),
        "max": max(values),
        "mean": round(fmean(values), 2),
        "std_dev": round(pstdev(values), 2),
    }
