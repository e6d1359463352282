"""Configurations that nobody should write, in files, in the environment of files, and on the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from commands import Command
from places import TESTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
_FILES: dict[str, tuple[bytes | str, str]] = {
    "is a billion laughs": (_LAUGHS, "aliases|values"),
    "refers to itself": ("a: &a [*a]\n", "itself|recursive|alias|unknown key"),
    "is 2 MB long": ("# " + "x" * 2_000_000, "large|1 MiB|bytes"),
    "has 60,000 keys": ("".join(f"k{n}: 1\n" for n in range(60_000)), "values|large"),
    "has 1,000 levels": ("[" * 1000 + "]" * 1000, "level|nested|deep"),
    "is UTF-16": ("log: {level: info}\n".encode("utf-16"), "is UTF-16 text, not UTF-8"),
    "has invalid UTF-8": (b"log: {level: \xff\xfe}\n", "UTF-8"),
    "has NUL": (b"log: {level: \x00}\n", "line 1|character"),
    "has a tag of Python": ("log: !!python/object/apply:os.system [id]\n", "line 1.*tag"),
    "has a tag that does not fit": ("log: {level: !!bool maybe}\n", "line 1.*tag"),
    "has a date that is none": ("log: {level: !!timestamp x}\n", "line 1.*tag"),
    "has a binary that is none": ("log: {level: !!binary \u00e9}\n", "line 1"),
    "has a key twice": ("log: {level: info, level: debug}\n", "given twice"),
    "has a list as a key": ("? [a, b]\n: 1\n", "line 1"),
    "has an anchor that is missing": ("log: *nothing\n", "line 1"),
    "has tabs": ("log:\n\tlevel: info\n", "line 2"),
    "has two documents": ("log: {}\n---\nlog: {}\n", "line"),
    "is cut in the middle": ("scrape:\n  interval: [1", "line"),
    "is a text": ("vllm\n", "mapping"),
    "is a list": ("- vllm\n", "mapping"),
    "is JSON that is cut": ('{"vllm": {"url": "http', "line"),
    "is a page of HTML": ("<!doctype html><html><body>Sign in</body></html>\n", "line|mapping"),
    "is a Kubernetes ConfigMap": ("apiVersion: v1\nkind: ConfigMap\ndata: {}\n", "apiVersion: unknown key"),
    "has an integer of 5,000 digits": (f"limits: {{adapters: {'9' * 5000}}}\n", "line 1"),
    "has NaN as a ratio": ("scrape: {server_time_ratio: .nan}\n", "line 1: scrape.server_time_ratio"),
    "has infinity as a ratio": ("scrape: {server_time_ratio: .inf}\n", "line 1: scrape.server_time_ratio"),
    "has a section that is null and a key of another": ("scrape:\nlog: {interval: 1s}\n", "log.interval: unknown key"),
    "names a server twice": ("targets: [{name: a, url: 'http://a'}, {name: a, url: 'http://b'}]\n", "targets.1.name"),
    "has 10,000 servers of one name": (
        "targets: [" + ", ".join("{name: a, url: 'http://a'}" for _ in range(10_000)) + "]\n", "targets.1.name"),
    "has a name of a server with a line break": ('targets: [{name: "a\\nb", url: "http://a"}]\n', "targets.0.name"),
    "has a URL with a line break": ('vllm: {url: "http://a\\r\\nHost: b"}\n', "vllm.url"),
    "has a header with a line break": ('vllm: {headers: {A: "b\\r\\nC: d"}}\n', "vllm.headers.A"),
    "has a label that is reserved": ("vllm: {labels: {job: a}}\n", "vllm.labels.job"),
    "has a token file that is a folder": ("vllm: {bearer_token_file: .}\n", "bearer_token_file.*directory"),
    "has several mistakes": ("a: 1\nlog: {level: 3}\nscrape: {interval: 0s}\n", "a: unknown.*log.level.*scrape.interval"),
}  # fmt: skip
"""What a file is or has, its content, and what the error says."""
_SECRET = "Pl4nted-s3cret-0123"
_SECRETS = (
    "vllm: {{url: 'http://u:{0}@h'}}", "vllm: {{url: 'http://h/?key={0}'}}", "vllm: {{bearer_token: [{0}]}}",
    "vllm: {{bearer_token: !!int {0}}}", "vllm: {{bearer_token: {0}, bearer_token: {0}2}}", "vllm: {0}",
    "vllm: {{headers: {{'X Key': {0}}}}}", "vllm: {{args: \"--api-key '{0}\"}}", "vllm: {{url: 'http://u:a/{0}@h'}}",
    "vllm: {{headers: {{Authorization: {0}}}, bearer_token: {0}}}", "otlp: {{headers: [{0}]}}",
)  # fmt: skip
_FLAGS: dict[str, tuple[tuple[str, ...], str]] = {
    "an address without a port": (("serve", "--web.listen-address", "9000"), "listen"),
    "an address of another machine": (("serve", "--web.listen-address", "192.0.2.1:1"), "192.0.2.1:1"),
    "an unknown flag": (("serve", "--nonsense"), "nonsense"),
    "a level that is none": (("serve", "--log.level", "loud"), "loud"),
    "a file of configuration that is missing": (("serve", "--config.file", "none.yaml"), "none.yaml"),
    "a URL of another kind": (("serve", "--vllm.url", "ftp://a"), "vllm.url"),
    "an unknown command": (("srve",), "srve"),
    "GPUs only, and a server": (("serve", "--gpu.only", "--vllm.url", "http://a"), "gpu.only"),
    "an address twice": (("serve", "--web.listen-address", "127.0.0.1:29999", "--web.listen-address", "127.0.0.1:29999"),
                         "only once"),
    "a socket of systemd that was not passed": (("serve", "--web.systemd-socket"), "systemd"),
    "a web file that is missing": (("serve", "--web.config.file", "none.yml"), "none.yml"),
    "a path of metrics that is taken": (("serve", "--web.telemetry-path", "/-/healthy"), "telemetry_path"),
}  # fmt: skip


_KEYS = {
    "a.key": "k" * 400,
    "b.pem": "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n",
    "c.pem": "hello\n",
}
_TLS: dict[str, tuple[str, str]] = {
    "a CA that is not a certificate": ("vllm: {url: 'https://a', ca_file: c.pem}", r"line 1: vllm.ca_file.*no certificate"),
    "a CA that is damaged": ("vllm: {url: 'https://a', ca_file: b.pem}", r"line 1: vllm.ca_file.*damaged"),
    "a CA of a list of servers that is not a certificate": (
        "discovery: {http: [{url: 'https://a', ca_file: c.pem}]}", r"line 1: discovery.http.0.ca_file.*no certificate"),
    "a certificate that is not one": ("vllm: {url: 'https://a', cert_file: c.pem, key_file: a.key}", r"line 1: vllm.key_file.*no certificate"),
    "a certificate of the port that is not one": (
        "web: {config_file: web.yml}", r"web.yml: line 1: tls_server_config.cert_file.*no certificate"),
}  # fmt: skip
"""Certificates that are none, the file that names them, and what the error says."""
_WEB = "tls_server_config: {cert_file: c.pem, key_file: a.key, client_ca_file: c.pem, client_auth_type: RequireAndVerifyClientCert}\n"


def configurations() -> Iterator[Command]:
    """Yield configurations that nobody should write."""
    check = "check-config", "{folder}/config.yaml"
    for path in sorted((TESTS / "configs").glob("bad-*.yaml")):
        text = path.read_text(encoding="utf-8")
        what = path.stem.removeprefix("bad-").replace("-", " ")
        yield Command(
            f"A file with one mistake: {what}", check, {"config.yaml": text, path.name: text}, (1,), r": line \d+"
        )
    for what, (content, says) in _FILES.items():
        yield Command(f"A file that {what}", check, {"config.yaml": content}, (1,), says)
    for name, place in {"a folder": lambda at: at.mkdir(), "a pipe": os.mkfifo, "missing": lambda _: None,
                        "an endless device": lambda at: at.symlink_to("/dev/zero"),
                        "a link to itself": lambda at: at.symlink_to(at)}.items():  # fmt: skip
        yield Command(f"A file that is {name}", check, codes=(1,), says="config.yaml",
                      prepare=lambda folder, place=place: place(folder / "config.yaml"))  # fmt: skip
    for what, (text, says) in _TLS.items():
        files = {"config.yaml": text + "\n", "web.yml": _WEB, **_KEYS}
        for name, arguments in (("check-config", check), ("serve", ("serve", "--config.file", "{folder}/config.yaml"))):
            yield Command(f"{name} with {what}", arguments, files, (1,), says, hidden=_KEYS["a.key"])
    for number, text in enumerate(_SECRETS):
        yield Command(f"A secret next to a mistake, {number + 1}", check, {"config.yaml": text.format(_SECRET) + "\n"},
                      (1,), hidden=_SECRET)  # fmt: skip
    for what, (arguments, says) in _FLAGS.items():
        yield Command(f"On the command line: {what}", arguments, codes=(1, 2), says=says)


def write(path: Path, text: str) -> None:
    """Replace a file at once, as tools do that write configurations."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
