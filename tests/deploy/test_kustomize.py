"""The components of deploy/kustomize, built by kustomize into the workloads of users and of other projects."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import kubernetes_tools
import pods
import pytest
import yaml
from places import ROOT

from vllm_sidecar import __version__, cli
from vllm_sidecar.config import DEFAULT_PORT, load, unknown_variables
from vllm_sidecar.serve.otlp.resource import resource_attributes

pytestmark = pytest.mark.io

KUSTOMIZE = ROOT / "deploy" / "kustomize"
STACKS_FOLDER = Path(__file__).parent / "stacks"
EXAMPLES = ("deployment", "leaderworkerset")
STACKS = {
    # stack with the objects, overlay: objects that get a sidecar -> the addresses that their sidecars poll
    ("production-stack", "production-stack"): {"vllm-qwen3-deployment-vllm": ["http://127.0.0.1:8000"]},
    ("llm-d", "llm-d"): {
        "prefill": ["http://127.0.0.1:8000"],
        "decode": ["http://127.0.0.1:8000"],
        "wide": ["http://127.0.0.1:8000", "http://127.0.0.1:8000"],
    },
    ("llm-d", "llm-d-disaggregated"): {
        "prefill": ["http://127.0.0.1:8000"],
        "decode": ["http://127.0.0.1:8200"],
        "wide": ["http://127.0.0.1:8000", "http://127.0.0.1:8000"],
    },
    ("kserve", "kserve"): {"qwen": ["https://127.0.0.1:8000"]},
    ("kuberay", "kuberay"): {"serve-llm": ["http://127.0.0.1:8080"], "cluster": ["http://127.0.0.1:8080"]},
}


@functools.cache
def example(name: str) -> dict[str, Any]:
    (found,) = kubernetes_tools.built(KUSTOMIZE / "examples" / name)
    return found


@functools.cache
def built(stack: str, overlay: str) -> dict[str, dict[str, Any]]:
    """Build the objects of a stack with an overlay, as a user's own kustomization does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(KUSTOMIZE, folder / "kustomize")
        shutil.copy(STACKS_FOLDER / f"{stack}.yaml", folder / "objects.yaml")
        own = {"resources": ["objects.yaml"], "components": [f"kustomize/overlays/{overlay}"]}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
        return {each["metadata"]["name"]: each for each in kubernetes_tools.built(folder)}


def sidecars(found: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each sidecar of an object with its pod."""
    return [(container, pod) for pod in pods.pod_specs(found) for container in pods.sidecars(pod)]


def written() -> list[tuple[str, dict[str, Any]]]:
    """Return every container of a sidecar that a patch has in full, with the name of its file."""

    def of(value: Any) -> list[dict[str, Any]]:
        if isinstance(value, list):
            return [each for item in value for each in of(item)]
        if not isinstance(value, dict):
            return []
        own = [value] if value.get("name") == "vllm-sidecar" and "image" in value else []
        return own + [each for item in value.values() for each in of(item)]

    files = sorted((KUSTOMIZE / "components").rglob("*.yaml")) + sorted((KUSTOMIZE / "overlays").rglob("*.yaml"))
    return [(str(path.relative_to(KUSTOMIZE)), each) for path in files for each in of(yaml.safe_load(path.read_text()))]


def test_every_patch_adds_the_same_container() -> None:
    found = written()
    assert len(found) == 6
    (_, first), *others = found
    for name, container in others:
        assert {**container, "env": 0} == {**first, "env": 0}, name
    assert {pods.environment(each)["VLLM_SIDECAR_GPU_DEVICES"] for _, each in found} == {"none"}
    assert first["image"] == f"ghcr.io/vllm-sidecar/vllm-sidecar:{__version__}"
    assert set(re.findall(r"ref=v([\d.]+)", (ROOT / "docs" / "kubernetes.md").read_text())) == {__version__}


def test_the_container_is_a_native_sidecar_that_vllm_does_not_wait_for() -> None:
    _, container = written()[0]
    assert container["restartPolicy"] == "Always"
    assert not {"startupProbe", "readinessProbe", "lifecycle"} & set(container)
    assert container["livenessProbe"]["httpGet"] == {"path": "/-/healthy", "port": "sidecar-metrics"}
    assert container["ports"] == [{"name": "sidecar-metrics", "containerPort": DEFAULT_PORT}]
    assert pods.offenses(container, {}) == []
    assert vars(cli.parser().parse_args(container["args"]))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_component_for_otlp_adds_to_what_the_others_set(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(KUSTOMIZE, Path(folder) / "kustomize")
        own = Path(folder) / "kustomize" / "examples" / name
        given = yaml.safe_load((own / "kustomization.yaml").read_text())
        given["components"].append("../../components/otlp")
        (own / "kustomization.yaml").write_text(yaml.safe_dump(given))
        (found,) = kubernetes_tools.built(own)
    before = [container for container, _ in sidecars(example(name))]
    after = [container for container, _ in sidecars(found)]
    assert len(after) == len(before) > 0
    for container, old in zip(after, before, strict=True):
        variables = pods.environment(container, pods.DOWNWARD)
        assert variables.items() >= pods.environment(old).items()
        assert list(unknown_variables(variables)) == []
        assert load(None, environment=variables).otlp.enabled
        references = (each.get("valueFrom", {}).get("secretKeyRef") for each in container["env"])
        secrets = [each for each in references if each]
        assert {each["name"] for each in secrets} == {"vllm-sidecar-otlp"}
        assert {each["key"]: each.get("optional", False) for each in secrets} == {"endpoint": False, "headers": True}
        found_attributes = resource_attributes({}, variables, "")
        assert found_attributes["service.instance.id"] == "llm.vllm-0.vllm-sidecar"
        assert found_attributes["k8s.node.name"] == "node-1"


def test_the_settings_of_every_patch_are_settings_of_the_sidecar() -> None:
    for name, container in written():
        variables = pods.environment(container)
        assert list(unknown_variables(variables)) == [], name
        config = load(None, environment=variables)
        assert [target.url for target in config.all_targets] == [variables["VLLM_SIDECAR_VLLM_URL"]], name
        assert not config.gpu.enabled


@pytest.mark.e2e
@pytest.mark.parametrize(("stack", "overlay"), STACKS)
def test_an_overlay_adds_the_sidecar_to_the_engines_of_a_stack_and_to_nothing_else(stack: str, overlay: str) -> None:
    found = built(stack, overlay)
    polled = {
        name: [pods.environment(container)["VLLM_SIDECAR_VLLM_URL"] for container, _ in sidecars(each)]
        for name, each in found.items()
    }
    assert {name: urls for name, urls in polled.items() if urls} == STACKS[stack, overlay]


@pytest.mark.e2e
@pytest.mark.parametrize(("stack", "overlay"), STACKS)
def test_an_overlay_keeps_the_containers_of_the_stack_and_labels_the_pods(stack: str, overlay: str) -> None:
    before = kubernetes_tools.objects((STACKS_FOLDER / f"{stack}.yaml").read_text())
    found = built(stack, overlay)
    for each in before:
        after = found[each["metadata"]["name"]]
        for old, new in zip(pods.pod_specs(each), pods.pod_specs(after), strict=True):
            kept = [one for one in new.get("initContainers", ()) if one["name"] != "vllm-sidecar"]
            assert (new["containers"], kept) == (old["containers"], old.get("initContainers", []))
        assert str(after).count("'vllm-sidecar/scrape': 'true'") == len(sidecars(after))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_all_components(name: str) -> None:
    (found,) = sidecars(example(name))
    container, pod = found
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["shareProcessNamespace"] is True
    assert pods.environment(container) == {
        "VLLM_SIDECAR_VLLM_URL": "http://127.0.0.1:8000",
        "VLLM_SIDECAR_GPU_DEVICES": "auto",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "utility",
    }
    # What reading vLLM's processes costs, and no more.
    assert pods.offenses(container, pod) == ["runAsNonRoot", "runAsUser"]


@pytest.mark.e2e
def test_the_image_is_replaced_in_one_place(tmp_path: Path) -> None:
    shutil.copytree(KUSTOMIZE, tmp_path / "kustomize")
    for name in EXAMPLES:
        folder = tmp_path / "kustomize" / "examples" / name
        own = yaml.safe_load((folder / "kustomization.yaml").read_text())
        own["images"][0] |= {"newName": "registry.example.org/mirror", "newTag": "9.9"}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
        images = [container["image"] for each in kubernetes_tools.built(folder) for container, _ in sidecars(each)]
        assert images == ["registry.example.org/mirror:9.9"]


@pytest.mark.e2e
@pytest.mark.parametrize("version", [f"1.{minor}" for minor in range(28, 38)])
def test_a_workload_with_the_sidecar_keeps_to_the_schema_of_kubernetes(version: str) -> None:
    assert kubernetes_tools.mistakes_of_kinds([example("deployment")], version) == []


@pytest.mark.parametrize(("index", "targets"), [("0", 1), ("1", 0)])
def test_one_template_makes_a_sidecar_that_polls_the_leader_and_none_that_polls_a_worker(
    monkeypatch: pytest.MonkeyPatch, index: str, targets: int
) -> None:
    ((container, _),) = sidecars(example("leaderworkerset"))
    monkeypatch.setenv("LWS_WORKER_INDEX", index)
    config = load(None, environment=pods.environment(container))
    assert len(config.all_targets) == targets
    assert config.gpu.enabled


def test_only_the_workers_of_the_group_are_started_headless() -> None:
    manifest = yaml.safe_load((KUSTOMIZE / "examples" / "leaderworkerset" / "vllm.yaml").read_text())
    (vllm,) = next(pods.pod_specs(manifest))["containers"]
    known = {line.split()[0] for line in (ROOT / "tests" / "vllm_flags.txt").read_text().splitlines() if line}
    (script,) = vllm["args"]
    assert set(re.findall(r"--[a-z-]+", script.partition("exec")[2])) <= known
    for index, headless in ("0", False), ("1", True):
        variables = {"LWS_WORKER_INDEX": index, "LWS_GROUP_SIZE": "2", "LWS_LEADER_ADDRESS": "leader"}
        shown = script.replace("exec vllm", "echo")
        done = subprocess.run([*vllm["command"], shown], env=variables, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("serve Qwen/")
        assert ("--headless" in done.stdout) is headless
        assert f"--node-rank {index} --master-addr leader" in done.stdout
