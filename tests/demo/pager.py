"""The pager: a webhook that Alertmanager calls, and the configurations that lead there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import yaml
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCRAPE = "5s"


class Pager:
    """Receives notifications; tells each alert that begins or ends once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: set[tuple[str, str]] = set()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_post("/page", self._page)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/page"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner:
            await self._runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        for alert in (await request.json())["alerts"]:
            self._tell(alert)
        return web.Response()

    def _tell(self, alert: dict[str, Any]) -> None:
        name, status = alert["labels"]["alertname"], alert["status"]
        key = (alert["fingerprint"] + alert["startsAt"], status)
        if key in self._told:
            return
        self._told.add(key)
        word = {"page": "PAGE", "ticket": "ticket"}.get(alert["labels"].get("severity", ""), "alert")
        text = alert["annotations"].get("summary", "") if status == "firing" else "is over"
        self._say(f"{time.strftime('%H:%M:%S')}  {word if status == 'firing' else 'resolved':>8}  {name}: {text}")


def write_configurations(folder: Path, *, rules: Path, sidecar: str, alertmanager: str, pager: str) -> None:
    """Write prometheus.yml and alertmanager.yml into a folder."""
    prometheus = {
        "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE},
        "rule_files": [str(rules / "vllm-sidecar*.rules.yml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [{"job_name": "vllm-sidecar", "static_configs": [{"targets": [sidecar]}]}],
    }
    watchdog = {"matchers": ['severity="watchdog"'], "receiver": "nobody"}
    route = {"receiver": "pager", "group_by": ["alertname"], "group_wait": "1s", "group_interval": "5s"}
    webhook = {"url": pager, "send_resolved": True}
    manager = {
        "route": {**route, "routes": [watchdog]},
        "receivers": [{"name": "pager", "webhook_configs": [webhook]}, {"name": "nobody"}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(prometheus, sort_keys=False))
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(manager, sort_keys=False))
