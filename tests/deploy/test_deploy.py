"""What is given to run the sidecar elsewhere: images, compose, Prometheus; read here, for none of it can be run."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import ROOT

from vllm_sidecar import cli
from vllm_sidecar.config import DEFAULT_PORT
from vllm_sidecar.simulator.script import read_script

pytestmark = pytest.mark.io

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "exporter" / "Dockerfile").read_text()
PROMETHEUS = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
OWN_IMAGE = "vllm-sidecar"
PROFILES = ("demo", "gpu")
SIDECARS = ("sidecar-demo", "sidecar-gpu")
SERVERS = ("vllm-demo", "vllm-gpu")


def mounts(service: dict[str, Any]) -> dict[str, Path]:
    """Path in the container -> path here."""
    parts = (volume.split(":") for volume in service.get("volumes", ()) if volume.startswith("./"))
    return {inside: ROOT / here for here, inside, _ in parts}


def test_compose_keeps_to_its_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, ROOT / "docker-compose.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, ROOT / "exporter" / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_has_one_vllm_one_sidecar_and_all_that_watches(profile: str) -> None:
    names = {name for name, service in SERVICES.items() if profile in service["profiles"]}
    assert names == {f"vllm-{profile}", f"sidecar-{profile}", "prometheus", "alertmanager", "grafana"}
    assert SERVICES[f"vllm-{profile}"]["networks"]["default"]["aliases"] == ["vllm"]
    assert SERVICES[f"sidecar-{profile}"]["networks"]["default"]["aliases"] == ["sidecar"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_root_rights_a_secret_or_all_of_the_machine(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].partition(":")[0]) > 0
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    # vLLM compiles kernels and writes caches; all others write to volumes and to memory alone.
    assert service.get("read_only", False) is (name != "vllm-gpu")
    assert not re.search(r"password|secret|token", json.dumps(service.get("environment", {})), re.IGNORECASE)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    own = "HEALTHCHECK" in DOCKERFILE and name in SIDECARS
    assert own or service["healthcheck"]["test"][0] == "CMD"


def test_every_mounted_path_exists_and_is_read_only() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            assert volume.endswith(":ro") or volume.partition(":")[0] in COMPOSE["volumes"], name
        for path in mounts(service).values():
            assert path.exists(), path


def test_the_simulator_plays_a_script_that_can_be_played() -> None:
    arguments = cli.parser().parse_args(SERVICES["vllm-demo"]["command"])
    assert [phase.scenario.name for phase in read_script(arguments.scenario, None, {}).phases][1] == "kv-exhaustion"
    assert arguments.host == "0.0.0.0"  # the other containers reach it


def test_vllm_is_started_with_flags_that_it_has() -> None:
    known = {line.split()[0] for line in (ROOT / "tests" / "vllm_flags.txt").read_text().splitlines() if line}
    flags = {flag.partition("=")[0] for flag in SERVICES["vllm-gpu"]["command"]}
    assert flags <= known


def test_prometheus_finds_the_rules_where_they_are_mounted() -> None:
    folders = {inside for inside, here in mounts(SERVICES["prometheus"]).items() if here == ROOT / "rules"}
    (pattern,) = PROMETHEUS["rule_files"]
    assert {str(PurePosixPath(pattern).parent)} == folders
    found = sorted(path.name for path in (ROOT / "rules").glob(PurePosixPath(pattern).name))
    assert found == ["vllm-sidecar-slo.rules.yml", "vllm-sidecar.rules.yml"]


def test_prometheus_tells_the_alertmanager_of_its_service() -> None:
    (manager,) = PROMETHEUS["alerting"]["alertmanagers"]
    assert manager["static_configs"] == [{"targets": ["alertmanager:9093"]}]


def test_images_are_pinned_to_a_version() -> None:
    used = [service["image"] for service in SERVICES.values() if service["image"] != OWN_IMAGE]
    used += re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert used
    for image in used:
        assert re.search(r":v?\d+\.\d+\.\d+", image), image


def test_the_own_image_is_built_from_the_dockerfile_and_never_pulled() -> None:
    for name in SIDECARS:
        build = SERVICES[name]["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).read_text() == DOCKERFILE
    for service in SERVICES.values():
        if service["image"] == OWN_IMAGE and "build" not in service:
            assert service["pull_policy"] == "never"


def test_everything_that_the_image_copies_exists() -> None:
    for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, flags=re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source


PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD_TOOL = "build"  # runs the build backend in a release


def pins_of(name: str) -> dict[str, tuple[Requirement, list[str]]]:
    """The pinned requirements of a list in deploy/, each with its hashes."""
    text = (ROOT / "deploy" / name).read_text().replace("\\\n", " ")
    pins = {}
    for line in (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")):
        requirement, *options = line.split(" --hash=")
        pin = Requirement(requirement)
        pins[canonicalize_name(pin.name)] = (pin, [option.strip() for option in options])
    return pins


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
def test_every_pin_has_one_version_and_the_hashes_of_its_files(name: str) -> None:
    pins = pins_of(name)
    assert pins
    for pin, hashes in pins.values():
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), pin
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), pin


def test_the_pins_of_the_image_satisfy_the_ranges_of_the_project() -> None:
    needed = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["otlp"]]
    _are_satisfied(needed, pins_of("requirements.txt"))


def test_the_pins_of_the_build_satisfy_the_build_system() -> None:
    asked = [line for line in (ROOT / "deploy" / "requirements-build.in").read_text().splitlines() if line[0] != "#"]
    assert sorted(asked) == sorted([*PROJECT["build-system"]["requires"], BUILD_TOOL])
    _are_satisfied(asked, pins_of("requirements-build.txt"))


def _are_satisfied(asked: list[str], pins: dict[str, tuple[Requirement, list[str]]]) -> None:
    for each in map(Requirement, asked):
        name = canonicalize_name(each.name)
        assert name in pins, f"{each} has no pin: make pins"
        (version,) = (specifier.version for specifier in pins[name][0].specifier)
        assert each.specifier.contains(version, prereleases=True), f"{each} is pinned to {version}: make pins"


def test_the_image_installs_nothing_but_pins_and_the_program() -> None:
    commands = DOCKERFILE.replace("\\\n", " ")
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^&\n]+", commands)
    pinned = [each for each in installs if "--require-hashes" in each and "--only-binary :all:" in each]
    assert {re.findall(r"--requirement (\S+)", each)[0] for each in pinned} == {
        "deploy/requirements.txt",
        "deploy/requirements-build.txt",
    }
    offline = [each for each in installs if "--no-index" in each and "--no-deps" in each]
    assert len(pinned) + len(offline) == len(installs)


def test_the_base_image_is_pinned_to_a_digest_in_every_stage() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", bases[0])


def test_the_image_has_no_root_and_no_generator() -> None:
    user = re.findall(r"^USER (\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert [int(part) > 0 for part in user[-1].split(":")] == [True, True]
    assert "generate]" not in DOCKERFILE


def test_the_health_check_is_python_that_asks_the_default_port() -> None:
    command = json.loads(re.findall(r"HEALTHCHECK.*?CMD (\[.*?\])$", DOCKERFILE, flags=re.DOTALL | re.MULTILINE)[0])
    assert command[:2] == ["python", "-c"]
    ast.parse(command[2])
    assert f"http://127.0.0.1:{DEFAULT_PORT}/-/healthy" in command[2]


def test_ports_are_published_on_the_loopback_only() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("name", SIDECARS)
def test_the_command_of_a_sidecar_names_the_vllm_next_to_it(name: str) -> None:
    arguments = vars(cli.parser().parse_args(SERVICES[name]["command"]))
    assert arguments["vllm.url"] == "http://vllm:8000"


def test_prometheus_scrapes_the_sidecar_where_it_serves() -> None:
    (job,) = (job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "vllm-sidecar")
    assert job["static_configs"] == [{"targets": [f"sidecar:{DEFAULT_PORT}"]}]


@pytest.mark.e2e
def test_promtool_accepts_the_configuration_of_prometheus() -> None:
    import promtool

    result = promtool.check_config(ROOT / "deploy" / "prometheus.yml")
    assert result.ok, result.output


def test_every_document_and_manifest_names_the_image_with_a_registry_and_a_tag() -> None:
    files = [
        path for folder in ("docs", "deploy") for path in (ROOT / folder).rglob("*") if path.suffix in {".md", ".yaml"}
    ]
    named = [
        (str(path.relative_to(ROOT)), image)
        for path in files
        for image in re.findall(
            r"(?:image:|docker run[^\n]*?) (\S*vllm-sidecar(?:[:@]\S+)?)(?= |$)", path.read_text(), re.MULTILINE
        )
    ]
    assert len(named) >= 6
    assert [each for each in named if not re.fullmatch(r"[a-z0-9.-]+\.[a-z]+/[a-z/-]+[:@]\S+", each[1])] == []


def test_the_mixin_has_every_dashboard_and_only_files_that_there_are() -> None:
    folder = ROOT / "deploy" / "mixin"
    named = re.findall(r"import(?:str)? '([^']+)'", (folder / "mixin.libsonnet").read_text())
    assert all((folder / path).resolve().is_file() for path in named)
    boards = {path.name for path in (ROOT / "dashboards").glob("*.json")}
    assert {PurePosixPath(path).name for path in named if path.endswith(".json")} == boards
