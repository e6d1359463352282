"""The runbooks that the sidecar serves, which alerts link to."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape

import pytest
from places import RULES
from running import config
from serving import serving

pytestmark = pytest.mark.io

RUNBOOKS = RULES / "runbooks"


async def test_every_runbook_is_served_as_a_page_that_runs_nothing() -> None:
    async with serving(config("http://127.0.0.1:1")) as client:
        answer, index = await client.get("/runbooks/")
        listed = set(re.findall(r'href="(Vllm\w+)\.md"', index.decode()))
        assert listed == {path.stem for path in RUNBOOKS.glob("Vllm*.md")}
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        for name in sorted(listed):
            answer, body = await client.get(f"/runbooks/{name}")
            assert (answer.status, answer.headers["X-Content-Type-Options"]) == (200, "nosniff")
            assert f"<h1>{name}</h1>" in body.decode()
            assert (await client.get(f"/runbooks/{name}.md"))[1] == body
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        style = re.findall(rb"<style>(.*?)</style>", body, flags=re.DOTALL)[0]
        assert base64.b64encode(hashlib.sha256(style).digest()).decode() in policy
        assert not {"unsafe", "script"} & set(re.findall(r"\w+", policy))


async def test_all_links_of_the_index_of_runbooks_lead_somewhere_and_keep_the_names() -> None:
    async with serving(config("http://127.0.0.1:1")) as client:
        _, body = await client.get("/runbooks/?pod=p-0&namespace=chat")
        links = {unescape(link) for link in re.findall(r'href="([^"]+)"', body.decode())}
        assert "VllmEngineStalled.md?namespace=chat&pod=p-0" in links
        for link in sorted(link for link in links if not link.startswith(("https:", "data:"))):
            assert (await client.get(f"/runbooks/{link}"))[0].status == 200, link


async def test_the_runbooks_without_a_slash_are_the_same() -> None:
    async with serving(config("http://127.0.0.1:1")) as client:
        answer, _ = await client.get("/runbooks?pod=p-0&model_name=a%2Fb")
        assert (answer.status, answer.url.raw_path_qs) == (200, "/runbooks/?pod=p-0&model_name=a/b")


async def test_a_runbook_that_the_client_has_is_not_sent_again_and_a_head_request_gets_its_headers() -> None:
    async with serving(config("http://127.0.0.1:1")) as client:
        path = "/runbooks/VllmTargetDown?pod=p-0"
        full, body = await client.get(path)
        again, nothing = await client.get(path, **{"If-None-Match": full.headers["ETag"]})
        assert (again.status, nothing) == (304, b"")
        head, nothing = await client.head(path)
        assert (head.status, nothing, head.headers["Content-Length"]) == (200, b"", str(len(body)))
        assert head.headers["ETag"] == full.headers["ETag"]


@pytest.mark.parametrize(
    "name",
    ["VllmNothing", "vllmtargetdown", "VllmTargetDown.html", ".md", "..%2fthresholds.yaml", "..%2F..%2FREADME.md",
     "%2e%2e%2fREADME.md", "README%00.md"],
)  # fmt: skip
async def test_only_runbooks_are_served_and_an_unknown_one_says_where_they_are(name: str) -> None:
    async with serving(config("http://127.0.0.1:1")) as client:
        answer, body = await client.get_raw(f"/runbooks/{name}")
        assert (answer.status, body) == (404, b"no alert has a runbook of this name; /runbooks/ lists them all.\n")
        assert answer.content_type == "text/plain"
