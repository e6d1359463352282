"""A server that answers probes from a table, and the prober that probes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.vllm.client import Response
from vllm_sidecar.vllm.probes import MAX_BODY, ProbeClient, Prober, Probing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VERSION, MODELS, INFO, LOAD = "/version", "/v1/models", "/server_info?config_format=json", "/load"
SECRET = "sk-Zq81-very-secret"
PROBING = Probing(
    interval=60.0,
    timeout=3.0,
    server_time_ratio=0.1,
    args=(),
    proc=False,
    url="http://127.0.0.1:8000",
    unix_socket=None,
)


def models(length: int = 2048) -> bytes:
    card = f'{{"id":"tiny","object":"model","created":1795471651,"root":"/models/tiny","max_model_len":{length}}}'
    return f'{{"object":"list","data":[{card}]}}'.encode()


class FakeClient:
    """Answers from a table, in 0.25 s each unless `seconds` says another time, and notes what it was asked."""

    def __init__(self, timeout: float = 3.0) -> None:
        self.timeout = timeout
        self.seconds: dict[str, float] = {}
        self.meanwhile: Callable[[], None] | None = None
        self.answers: dict[str, bytes | Reason] = {
            VERSION: b'{"version":"0.32.0"}',
            MODELS: models(),
            INFO: Reason.HTTP_404,
            LOAD: b'{"server_load":0}',
        }
        self.asked: list[str] = []

    async def get(
        self,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        accept: str = "",
        timeout: float = 0.0,  # noqa: ASYNC109
        max_size: int = 0,
    ) -> Response:
        assert (accept, timeout, max_size) == ("application/json", self.timeout, MAX_BODY)
        key = "?".join([path, *(f"{name}={value}" for name, value in query)])
        self.asked.append(key)
        answer = self.answers[key]
        if self.meanwhile:
            self.meanwhile()
        if isinstance(answer, Reason):
            raise PollError(answer, f"no answer, and here is {SECRET}")
        return Response(answer, "application/json", self.seconds.get(key, 0.25))


def prober(
    client: ProbeClient, args: Sequence[str] = (), proc_root: Path | None = None, *, timeout: float = 3.0
) -> Prober:
    probing = replace(PROBING, timeout=timeout, args=args, proc=proc_root is not None)
    return Prober(client, probing, wall=lambda: 1.7e9, proc_root=proc_root or Path("/nowhere"))


async def walk(probing: Prober, start: float, steps: int, *, asleep: bool = False) -> int:
    """Make steps one second apart and return how many probes were sent."""
    return sum([await probing.step(start + i, asleep=asleep) for i in range(steps)])
