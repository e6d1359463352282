"""The canary: short requests with known answers, sent to a server as a user sends them.

    requests -> client (phases, stream) -> answer -> output (expectation, baseline) -> record -> series

It is off unless the configuration turns it on, uses connections of its own, and changes nothing about polls.
"""

from vllm_sidecar.canary.loop import Canary, Situation

__all__ = ["Canary", "Situation"]
