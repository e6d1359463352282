"""The command line: what it prints, what it returns, and that no traceback reaches a user."""

from __future__ import annotations

import errno
import logging
import os
import platform
import re
import socket
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from certificates import Issuer
from places import EXPORTER

from vllm_sidecar import __version__
from vllm_sidecar.cli import SHELLS, main
from vllm_sidecar.config import Config, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.io

EXAMPLE = EXPORTER / "config.example.yaml"
PROGRAM = [sys.executable, "-m", "vllm_sidecar"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(EXPORTER)}


class App:
    """Stands in for `vllm_sidecar.serve.app`: remembers its arguments, then raises or returns as configured."""

    def __init__(self) -> None:
        self.config = Config()
        self.reload: Callable[[], Config] = Config
        self.result: int | BaseException = 0

    def run(self, config: Config, reload: Callable[[], Config]) -> int:
        self.config, self.reload = config, reload
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    stub, module = App(), ModuleType("vllm_sidecar.serve.app")
    module.run = stub.run
    monkeypatch.setitem(sys.modules, "vllm_sidecar.serve.app", module)
    return stub


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root, access = logging.getLogger(), logging.getLogger("aiohttp.access")
    before = root.handlers[:], root.level, access.level
    yield
    root.handlers[:], root.level, access.level = before


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_name_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in ("serve", "check-config", "generate", "simulate", "promtool"))


def test_version_names_the_program_and_the_python(capsys: pytest.CaptureFixture[str]) -> None:
    expected = f"vllm-sidecar {__version__} (python {platform.python_version()})\n"

    assert (main(["version"]), capsys.readouterr().out) == (0, expected)
    assert (main(["--version"]), capsys.readouterr().out) == (0, expected)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "argument COMMAND: invalid choice: 'fly'"),
        (["serve", "--vllm.ur", "http://a"], "unrecognized arguments: --vllm.ur http://a"),
        (["generate", "--chec"], "unrecognized arguments: --chec"),
    ],
)
def test_wrong_usage_is_told_in_one_line_and_returns_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_check_config_sums_a_good_file_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("targets: [{name: a, url: 'http://a:1/x/'}, {name: b, unix_socket: /run/b}]", encoding="utf-8")

    assert main(["check-config", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: OK, 2 targets every 1s, served on :10190",
        "  a: http://a:1/x/metrics",
        "  b: http://127.0.0.1:8000/metrics through /run/b",
    ]


def test_check_config_checks_the_web_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, web = tmp_path / "c.yaml", tmp_path / "web.yml"
    path.write_text("web: {config_file: web.yml}", encoding="utf-8")
    web.write_text("basic_auth: {}", encoding="utf-8")

    assert main(["check-config", str(path)]) == 1
    mistake = f"vllm-sidecar: {web}: line 1: basic_auth: unknown key; did you mean basic_auth_users?\n"
    assert capsys.readouterr().err == mistake


def test_check_config_counts_the_one_target_of_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", str(EXAMPLE)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{EXAMPLE}: OK, 1 target every 1s, served on :10190",
        "  vllm: http://127.0.0.1:8000/metrics",
    ]


def test_check_config_of_a_node_without_vllm_counts_no_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("gpu: {only: true, interval: 15s}\n", encoding="utf-8")
    assert main(["check-config", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: OK, GPUs and no target every 15s, served on :10190\n"


def test_only_gpus_and_a_vllm_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--gpu.only", "--vllm.url", "http://127.0.0.1:8000"]) == 1
    assert capsys.readouterr().err == (
        "vllm-sidecar: command line: gpu.only: got true; "
        "allowed: true only without vllm (in the file, by flag or environment), targets and discovery\n"
    )


def test_check_config_lists_every_mistake_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("log:\n  level: loud\n  colour: red\n", encoding="utf-8")

    assert main(["check-config", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"vllm-sidecar: {path}: line 2: log.level: got \"loud\"; allowed: 'debug', 'info', 'warning' or 'error'",
        f"vllm-sidecar: {path}: line 3: log.colour: unknown key; allowed: level, format",
    ]


def test_serve_works_without_a_config_file(app: App) -> None:
    assert main(["serve"]) == 0
    assert app.config == Config()


def test_serve_hands_every_flag_to_the_config(app: App, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("vllm: {metrics_path: /m}", encoding="utf-8")
    flags = ["--config.file", str(path), "--vllm.url", "http://a:1", "--web.listen-address", "[::1]:0"]

    assert main(["serve", *flags, "--log.level", "warning", "--log.format", "json"]) == 0
    assert (app.config.vllm.metrics_path, app.config.vllm.url) == ("/m", "http://a:1")
    assert app.config.web.listen_address == ("[::1]:0",)
    assert (app.config.log.level, app.config.log.format) == ("warning", "json")
    assert logging.getLogger().level == logging.WARNING


def test_serve_returns_what_the_app_returns(app: App) -> None:
    app.result = 3

    assert main(["serve"]) == 3


def test_reload_reads_the_file_again_under_the_same_flags(app: App, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("vllm: {metrics_path: /old}", encoding="utf-8")
    main(["serve", "--config.file", str(path), "--vllm.url", "http://a:1"])

    path.write_text("vllm: {metrics_path: /new}", encoding="utf-8")
    assert (app.reload().vllm.metrics_path, app.reload().vllm.url) == ("/new", "http://a:1")

    path.write_text("vllm: 3", encoding="utf-8")
    with pytest.raises(ConfigError, match="vllm: got 3"):
        app.reload()


def test_a_bad_flag_is_told_like_a_bad_key(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.result = AssertionError("serve was called")

    assert main(["serve", "--log.level", "loud"]) == 1
    assert capsys.readouterr().err == (
        "vllm-sidecar: command line: log.level: got \"loud\"; allowed: 'debug', 'info', 'warning' or 'error'\n"
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EADDRINUSE, "error while attempting to bind"), "address already in use"),
        (OSError(errno.EACCES, "x"), "permission denied"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "no network interface of this machine has that address"),
        (OSError(errno.EAFNOSUPPORT, "x"), "this machine does not have that kind of address"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "no such host"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_address_that_cannot_be_listened_on_is_told_with_the_way_out(
    app: App, error: OSError, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app.result = error

    assert main(["serve", "--web.listen-address", ":9000"]) == 1
    assert capsys.readouterr().err == (
        f"vllm-sidecar: cannot listen on :9000: {reason}; choose another with --web.listen-address\n"
    )


def test_a_bug_is_told_in_one_line_and_logged_with_its_traceback(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.result = ZeroDivisionError("two\nlines")

    assert main(["serve"]) == 1
    logged, told = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"vllm-sidecar: internal error: ZeroDivisionError: two lines \(test_cli\.py:\d+\)", told)
    assert "event=internal_error" in logged
    assert 'exception="Traceback' in logged


def test_an_error_of_the_system_that_is_not_about_listening_is_told_as_it_is(
    app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    app.result = OSError(errno.EMFILE, "Too many open files")

    assert main(["serve"]) == 1
    assert "OSError: [Errno 24] Too many open files" in capsys.readouterr().err


def test_an_interrupt_is_quiet_and_returns_130(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.result = KeyboardInterrupt()

    assert main(["serve"]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_went_away_is_quiet_and_returns_141() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*PROGRAM, "version"], stdout=writing, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False
        )
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (141, b"")


def test_the_command_line_itself_loads_neither_what_serves_nor_what_generates() -> None:
    program = (
        "import sys; from vllm_sidecar.cli import main; main(['version']);"
        "heavy = {'jinja2', 'promql_parser', 'aiohttp', 'numpy', 'vllm_sidecar.generate.outputs'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_line_reads_a_config_without_numpy(tmp_path: Path) -> None:
    """Its import takes longer than everything else that --help does."""
    (tmp_path / "c.yaml").write_text("vllm: {labels: {team: a}}\n", encoding="utf-8")
    program = (
        "import sys; from vllm_sidecar.cli import main; codes = main(['--help']), main(['check-config', 'c.yaml']);"
        "sys.exit(str(codes) if any(codes) else 'numpy is loaded' if 'numpy' in sys.modules else None)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_numpy_makes_no_thread_for_each_core_of_the_machine() -> None:
    program = "import os, vllm_sidecar.__main__ as m; m.main(); import numpy; print(len(os.listdir('/proc/self/task')))"
    hidden = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in hidden}
    command = [sys.executable, "-c", program, "version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)

    assert done.stdout.splitlines()[-1] == "1"


def test_serve_hands_on_what_the_environment_sets(app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("log: {level: warning}\nlimits: {adapters: 3}\n", encoding="utf-8")
    monkeypatch.setenv("VLLM_SIDECAR_CONFIG_FILE", str(path))
    monkeypatch.setenv("VLLM_SIDECAR_SCRAPE_INTERVAL", "5s")
    monkeypatch.setenv("VLLM_SIDECAR_VLLM_BEARER_TOKEN", "s3cret")

    assert main(["serve", "--vllm.insecure-skip-verify", "--vllm.labels", "{team: search}"]) == 0
    assert (app.config.scrape.interval, app.config.limits.adapters) == (5.0, 3)
    assert (app.config.vllm.insecure_skip_verify, app.config.vllm.labels) == (True, {"team": "search"})
    assert app.config.vllm.bearer_token is not None


def test_every_setting_of_the_target_that_is_no_secret_has_a_flag(app: App, tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    own = issuer.issue("sidecar")
    given = ["--vllm.url", "http://a:1", "--vllm.metrics-path", "/m", "--vllm.cert-file", str(own.cert)]
    given += ["--vllm.ca-file", str(issuer.cert), "--vllm.key-file", str(own.key)]
    given += ["--vllm.bearer-token-file", __file__]
    given += ["--vllm.unix-socket", "a.sock", "--vllm.args", "--max-num-seqs 8", "--vllm.headless=false"]
    given += ["--vllm.insecure-skip-verify=true", "--vllm.labels", "{a: b}"]

    assert main(["serve", *given]) == 0
    assert set(type(app.config.vllm).model_fields) - app.config.vllm.model_fields_set == {"headers", "bearer_token"}


def test_every_setting_of_the_http_server_has_a_flag_and_addresses_may_be_repeated(app: App) -> None:
    given = [
        "--web.listen-address",
        "127.0.0.1:1",
        "--web.listen-address=unix:/run/a.sock",
        "--web.systemd-socket=false",
    ]
    given += ["--web.config.file", __file__, "--web.telemetry-path", "/m", "--web.max-connections", "99"]
    given += ["--web.allowed-hosts", "a.example.com", "--web.allowed-hosts", ".b.org", "--web.enable-lifecycle"]

    assert main(["serve", *given]) == 0
    assert app.config.web.model_fields_set == set(type(app.config.web).model_fields)
    assert app.config.web.listen_address == ("127.0.0.1:1", "unix:/run/a.sock")
    assert app.config.web.allowed_hosts == ("a.example.com", ".b.org")


@pytest.mark.parametrize("secret", ["--vllm.bearer-token", "--vllm.headers"])
def test_no_flag_takes_a_secret(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", secret, "s3cret"]) == 2
    assert f"unrecognized arguments: {secret}" in capsys.readouterr().err


def test_an_unknown_variable_is_a_warning(
    app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_SIDECAR_SCRAPE_INTERVALL", "5s")
    monkeypatch.setenv("VLLM_SIDECAR_PORT", "tcp://10.0.0.1:10190")

    assert main(["serve"]) == 0
    assert app.config == Config()
    (line,) = capsys.readouterr().err.splitlines()
    assert "level=warning" in line
    assert "did you mean VLLM_SIDECAR_SCRAPE_INTERVAL?" in line


def test_check_config_checks_the_environment_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("log: {level: loud}\n", encoding="utf-8")
    monkeypatch.setenv("VLLM_SIDECAR_SCRAPE_INTERVAL", "soon")

    assert main(["check-config", str(path)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "environment variable VLLM_SIDECAR_SCRAPE_INTERVAL: scrape.interval: got" in first
    assert "line 1: log.level: got" in second


def test_check_config_says_that_a_worker_is_not_polled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("vllm: {url: 'http://localhost:8000'}\n", encoding="utf-8")
    monkeypatch.setenv("LWS_WORKER_INDEX", "1")

    assert main(["check-config", str(path)]) == 0
    said = "OK, GPUs of a worker without an HTTP server (vllm.headless) every 5s, served on :10190"
    assert capsys.readouterr().out == f"{path}: {said}\n"


def test_a_sighup_while_serve_starts_waits_until_it_can_be_answered() -> None:
    program = (
        "import os, signal, sys; sys.argv = ['vllm-sidecar', 'serve', '--log.level', 'loud'];"
        "import vllm_sidecar.__main__ as m; m.main(); os.kill(os.getpid(), signal.SIGHUP);"
        "sys.exit(7 if signal.SIGHUP in signal.sigpending() else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=ENVIRONMENT, check=False)

    assert done.returncode == 7
