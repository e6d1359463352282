"""The requests of the canary, and how they are marked so that logs, routers and quotas can exclude them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.config.canary import CanaryPrompt, CanarySettings

MARK = "vllm-sidecar-canary"
"""The `user` of every request, the beginning of its id, and of its User-Agent."""
SEED = 1
_PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


@dataclass(frozen=True, slots=True)
class CanaryRequest:
    """One prompt for one model; `model` is None for the served model, whose name is known only later."""

    prompt: CanaryPrompt
    model: str | None
    priority: int | None = None

    @property
    def path(self) -> str:
        """The path below the server's address."""
        return _PATHS[self.prompt.endpoint]

    def body(self, model: str) -> dict[str, object]:
        """Return the JSON of the request for a model.

        vLLM before 0.10.2 ignores `return_token_ids`; then words of the text are compared instead of tokens.
        """
        prompt = self.prompt
        messages = [{"role": "user", "content": prompt.prompt}]
        if prompt.system is not None:
            messages.insert(0, {"role": "system", "content": prompt.system})
        text = {"messages": messages} if prompt.endpoint == "chat" else {"prompt": prompt.prompt}
        urgency = {} if self.priority is None else {"priority": self.priority}
        return {
            "model": model,
            **text,
            "max_tokens": prompt.max_tokens,
            "temperature": 0,
            "seed": SEED,
            "stream": True,
            "return_token_ids": True,
            "user": MARK,
            **urgency,
        }


def marks() -> dict[str, str]:
    """Return the headers that mark a request; vLLM makes the id of the header a part of its own id and of its log."""
    return {"user-agent": f"{MARK}/{__version__}", "x-request-id": f"{MARK}-{secrets.token_hex(8)}"}


def requests_of(settings: CanarySettings) -> Iterator[CanaryRequest]:
    """Yield every pair of prompt and model, in the order of the configuration."""
    for prompt in settings.prompts:
        for model in prompt.models or (None,):
            yield CanaryRequest(prompt, model, settings.priority)
