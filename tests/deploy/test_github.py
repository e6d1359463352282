"""The workflows and templates of .github, read here because only GitHub can run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from vllm_sidecar import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.io

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = {path.stem: path for path in sorted((GITHUB / "workflows").iterdir())}
PARSED: dict[str, dict[str, Any]] = {name: yaml.safe_load(path.read_text()) for name, path in WORKFLOWS.items()}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCHEMAS = {
    "vendor.github-workflows": "workflows/*.yml",
    "custom.github-workflows-require-timeout": "workflows/*.yml",
    "vendor.dependabot": "dependabot.yml",
    "vendor.github-issue-forms": "ISSUE_TEMPLATE/*_*.yml",
    "vendor.github-issue-config": "ISSUE_TEMPLATE/config.yml",
}
# All that a job may do beyond reading the code.
RIGHTS = {
    ("release", "publish"): {"id-token": "write", "attestations": "write", "artifact-metadata": "write"},
    ("release", "image"): {"packages": "write", "id-token": "write"},
    ("release", "chart"): {"packages": "write", "id-token": "write"},
    ("image", "publish"): {"packages": "write", "id-token": "write"},
}
MANIFESTS = {
    "pip": ("pyproject.toml", "requirements.txt"),
    "github-actions": (".github/workflows",),
    "docker": ("Dockerfile",),
    "docker-compose": ("docker-compose.yml",),
}


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for workflow, document in PARSED.items():
        for name, job in document["jobs"].items():
            yield workflow, name, job


def steps() -> Iterator[dict[str, Any]]:
    for _, _, job in jobs():
        yield from job.get("steps", ())


def script(workflow: str, job: str, name: str) -> str:
    (step,) = (step for step in PARSED[workflow]["jobs"][job]["steps"] if step.get("name") == name)
    text: str = step["run"]
    return text


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_file_keeps_to_its_schema(schema: str) -> None:
    paths = sorted(GITHUB.glob(SCHEMAS[schema]))
    assert paths
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_finds_no_security_problem() -> None:
    program = shutil.which("zizmor", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        hint = "zizmor is not installed: pip install zizmor"
        if os.environ.get("CI") == "true":
            pytest.fail(hint)
        pytest.skip(hint)
    command = [program, "--offline", "--no-progress", "--quiet", "--persona=pedantic", GITHUB]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_action_is_pinned_to_a_commit_with_its_version_next_to_it() -> None:
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS.values():
        for used in re.findall(r"^\s*(?:- )?uses: (.+)$", path.read_text(), flags=re.MULTILINE):
            if used.startswith("$/"):
                assert (ROOT / used.removeprefix("$/")).is_file(), used
                continue
            pin = re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", used)
            assert pin, f"{path.name}: {used}"
            pins.setdefault(pin[1], set()).add(pin[2])
    assert {action: versions for action, versions in pins.items() if len(versions) > 1} == {}


def test_a_workflow_has_no_rights_and_a_job_only_those_that_it_needs() -> None:
    for workflow, document in PARSED.items():
        assert document["permissions"] == {}, workflow
    for workflow, name, job in jobs():
        beyond = {right: level for right, level in job["permissions"].items() if (right, level) != ("contents", "read")}
        assert beyond == RIGHTS.get((workflow, name), {}), f"{workflow}.yml: {name}"


def test_no_workflow_uses_a_stored_secret() -> None:
    for path in WORKFLOWS.values():
        assert "secrets" not in path.read_text(), path.name


def test_no_checkout_leaves_its_token_behind() -> None:
    checkouts = [step for step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_every_workflow_limits_how_many_of_its_runs_go_on_at_once() -> None:
    groups = {workflow: document["concurrency"]["group"] for workflow, document in PARSED.items()}
    # A workflow that is called has the name and the ref of its caller: one group for both would block them.
    assert groups == {workflow: f"{workflow}-${{{{ github.ref }}}}" for workflow in PARSED}


def test_scripts_are_shell_and_take_values_from_variables_only() -> None:
    scripts = [step["run"] for step in steps() if "run" in step]
    assert scripts
    for text in scripts:
        assert "${{" not in text, text
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_ci_runs_every_target_and_the_tests_on_every_supported_python() -> None:
    matrix = PARSED["ci"]["jobs"]["make"]["strategy"]["matrix"]
    targets = {*matrix["target"], *(each["target"] for each in matrix["include"])}
    assert targets == {"check", "audit", "test", "test-all", "e2e"}
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert targets <= known
    declared = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert matrix["python"] == declared
    assert PROJECT["requires-python"] == f">={declared[0]}"


def test_nothing_is_published_before_the_tests_and_the_installed_wheel_have_passed() -> None:
    release = PARSED["release"]["jobs"]
    assert release["ci"]["uses"] == "$/.github/workflows/ci.yml"
    assert release["image"]["uses"] == "$/.github/workflows/image.yml"
    for name in "publish", "image":
        assert set(release[name]["needs"]) == {"build", "install", "ci"}
    assert set(release["chart"]["needs"]) == {"build", "install", "ci", "image"}  # it names the image
    assert release["publish"]["environment"]["name"] == "pypi"
    assert list(PARSED["image"][True]) == ["workflow_call"]  # YAML reads `on` as true


@pytest.mark.parametrize(
    ("tag", "version", "status", "complaint"),
    [
        (f"v{__version__}", __version__, 0, ""),
        (f"v{__version__}", "9.9.9", 1, f"the tag is v{__version__}, and the version of the package is 9.9.9"),
        ("v9.9.9", "9.9.9", 1, "CHANGELOG.md has no heading for 9.9.9"),
        (f"v{__version__}1", __version__, 1, f"the tag is v{__version__}1"),
    ],
)
def test_a_release_needs_a_tag_that_equals_the_version_and_a_heading_in_the_changelog(
    tag: str, version: str, status: int, complaint: str, tmp_path: Path
) -> None:
    module = tmp_path / "exporter" / "vllm_sidecar" / "__init__.py"
    module.parent.mkdir(parents=True)
    text = (ROOT / "exporter" / "vllm_sidecar" / "__init__.py").read_text()
    module.write_text(text.replace(f'"{__version__}"', f'"{version}"'))
    (tmp_path / "CHANGELOG.md").write_text(f"## Unreleased\n\n## {__version__} - 2026-01-01\n")
    command = [
        "bash",
        "-eo",
        "pipefail",
        "-c",
        script("release", "build", "Compare the tag with the version and the changelog"),
    ]
    variables = {**os.environ, "GITHUB_REF_NAME": tag}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert complaint in done.stdout


def test_images_are_built_for_both_platforms_with_sbom_provenance_and_signature() -> None:
    (build,) = (step["with"] for step in steps() if step.get("uses", "").startswith("docker/build-push-action@"))
    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert (build["push"], build["sbom"], build["provenance"]) == (True, True, "mode=max")
    assert (ROOT / build["file"]).is_file()
    assert "cosign sign --yes" in script("image", "publish", "Start both platforms, then sign")


def test_dependabot_looks_where_something_is_pinned_and_waits_a_week() -> None:
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    assert {each["package-ecosystem"] for each in updates} == set(MANIFESTS)
    for each in updates:
        folder = ROOT / each["directory"].lstrip("/")
        assert any((folder / name).exists() for name in MANIFESTS[each["package-ecosystem"]]), each
        assert each["cooldown"]["default-days"] >= 7


def test_a_bug_report_asks_for_what_a_maintainer_needs() -> None:
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / "bug_report.yml").read_text())
    required = {each["id"] for each in form["body"] if each.get("validations", {}).get("required")}
    assert required >= {"happened", "expected", "sidecar-version", "vllm-version", "flags", "status"}
    assert "/api/v1/status" in str(form)
    assert "/debug/last-scrape" in str(form)


def test_every_link_to_the_repository_is_that_of_the_project() -> None:
    home = PROJECT["urls"]["Homepage"]
    assert all(url.startswith(home) for url in PROJECT["urls"].values())
    texts = [(ROOT / "SECURITY.md").read_text(), *(path.read_text() for path in (GITHUB / "ISSUE_TEMPLATE").iterdir())]
    links = [link for text in texts for link in re.findall(r"https://github\.com/[^\s)]+", text)]
    assert links
    assert all(link == f"{home}/security/advisories/new" for link in links)
