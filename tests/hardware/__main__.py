"""The program beside a CUDA load on this machine's GPUs: every value, a hang, a killed process, events.

    python tests/hardware           where there is no NVIDIA GPU it says so and is content
    python tests/hardware --stub    with the scripted library of the tests in the driver's place: tests this program

Ends with 1 where anything is not as it should be. It uses 256 MiB of each GPU, and provokes an XID of an application
(13 or 31) on the first one if nobody else computes there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from compare import SMI, Row, compare, of_smi, values

from vllm_sidecar.catalog.gpu_fields import FIELDS_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
EXPORTER = HERE.parents[1] / "exporter"
STUB = HERE.parent / "nvml_stub" / "stub.c"
PATIENCE = 90.0
SLOW_SECONDS = 2.0
CONFIG = {
    "gpu": {
        "only": True, "interval": "500ms", "slow_interval": f"{SLOW_SECONDS:g}s", "timeout": "3s", "processes": True,
    },
    "web": {"listen_address": "127.0.0.1:0"},
}  # fmt: skip


class Check:
    """The verdicts so far, printed as they come."""

    def __init__(self) -> None:
        self.failed = self.passed = 0

    def __call__(self, what: str, fine: bool, detail: object = "") -> None:
        self.passed, self.failed = self.passed + fine, self.failed + (not fine)
        print(f"{'ok    ' if fine else 'FAILED'} {what}{f': {detail}' if str(detail) else ''}", flush=True)


class Sidecar:
    """The running program, watching GPUs and nothing else."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log
        self.url = ""

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self) -> None:
        until("the program listens", lambda: re.search(r"event=listening address=(\S+)", self.log()))
        match = re.search(r"event=listening address=(\S+)", self.log())
        assert match is not None
        self.url = f"http://{match[1]}/metrics"

    def metrics(self) -> str:
        with urllib.request.urlopen(self.url, timeout=5) as answer:  # noqa: S310 - loopback
            return str(answer.read().decode())

    def value(self, name: str) -> float | None:
        match = re.search(rf"^vllm_sidecar_{re.escape(name)} (\S+)$", self.metrics(), re.MULTILINE)
        return float(match[1]) if match else None

    def total(self, name: str) -> float:
        """Add all series of a metric up."""
        return sum(map(float, re.findall(rf"^vllm_sidecar_{name}{{[^}}]*}} (\S+)$", self.metrics(), re.MULTILINE)))

    @property
    def child(self) -> int:
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


class Faults(NamedTuple):
    """What makes calls to the driver hang and go on, and provokes an XID (and says why not, where it cannot)."""

    hang: Callable[[], object]
    go_on: Callable[[], object]
    provoke: Callable[[], str]


def until(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Wait until something is so; tell whether it came to be."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            print(f"waited in vain: {what}", flush=True)
            return False
        time.sleep(0.1)
    return True


def reference(variables: dict[str, str]) -> dict[str, dict[str, float]]:
    """Read all GPUs with the other program."""
    done = subprocess.run([sys.executable, HERE / "reference.py"], env=variables, capture_output=True, text=True)  # noqa: PLW1510
    if done.returncode:
        raise SystemExit(f"the reference cannot read the GPUs: {done.stderr[-500:]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def smi() -> dict[str, dict[str, tuple[float, float]]]:
    """Ask nvidia-smi for each field on its own, for one that it does not know spoils the others."""
    found: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    program = shutil.which("nvidia-smi")
    for name, (query, _) in SMI.items() if program else ():
        command = [str(program), f"--query-gpu=uuid,{query}", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines() if done.returncode == 0 else ():
            uuid, _, text = line.partition(", ")
            between = of_smi(name, text.strip())
            if between is not None:
                found[uuid][name] = between
    return found


@contextmanager
def started(folder: Path, variables: dict[str, str]) -> Iterator[Sidecar]:
    """Run the program."""
    config, log = folder / "config.yaml", folder / "sidecar.log"
    config.write_text(json.dumps(CONFIG))
    command = [sys.executable, "-m", "vllm_sidecar", "serve", "--config.file", str(config)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=variables, stdout=file, stderr=file)
    made = Sidecar(process, log)
    try:
        made.wait()
        yield made
    except BaseException:
        print(made.log()[-2000:], flush=True)
        raise
    finally:
        process.kill()
        process.wait()


@contextmanager
def load(uuid: str, variables: dict[str, str]) -> Iterator[str]:
    """Keep a GPU busy; yields `busy`, or why not."""
    command = [sys.executable, HERE / "load.py", uuid]
    process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def check_values(check: Check, sidecar: Sidecar, variables: dict[str, str]) -> None:
    """Hold every value against the other program and nvidia-smi, read before and after."""
    before, shown = reference(variables), smi()
    time.sleep(2.0 * SLOW_SECONDS + 1.0)
    said = values(sidecar.metrics(), FIELDS_BY_NAME)
    after, later = reference(variables), smi()
    check("all GPUs are there", before.keys() <= said.keys(), f"{len(before)} by NVML, {len(said)} by the sidecar")
    rows = list(compare(said, before, after))
    _tell(check, "NVML read by another program", rows)
    if not shown:
        print("       nvidia-smi is not there or shows nothing: not held against it")
    of_both = [
        Row(uuid, name, said.get(uuid, {}).get(name), min(low, later[uuid][name][0]), max(high, later[uuid][name][1]))
        for uuid, found in shown.items()
        for name, (low, high) in found.items()
        if name in later[uuid]
    ]
    _tell(check, "nvidia-smi", of_both)
    compared = {row.name.partition("|")[0] for row in rows if row.value is not None}
    print(f"       fields with a value: {len(compared)} of {len(FIELDS_BY_NAME)}; without: "
          f"{', '.join(sorted(FIELDS_BY_NAME.keys() - compared)) or 'none'}")  # fmt: skip


def _tell(check: Check, whom: str, rows: list[Row]) -> None:
    wrong = [row for row in rows if not row.agrees]
    if rows:
        check(f"{len(rows)} values agree with {whom}", not wrong, f"{len(wrong)} do not" if wrong else "")
    for row in wrong:
        print(f"       {row.uuid} {row.name}: {row.value}, should be between {row.low} and {row.high}")


def check_kill(check: Check, sidecar: Sidecar) -> None:
    """Kill the process that calls NVML."""
    opens = sidecar.value("gpu_driver_opens_total") or 0.0
    os.kill(sidecar.child, signal.SIGKILL)
    crashed = 'poll_failures_total{source="nvml",reason="crashed"}'
    check("a killed process is counted", until("crashed", lambda: sidecar.value(crashed) == 1.0))
    again = until("GPUs again", lambda: (sidecar.value("gpu_driver_opens_total") or 0.0) > opens
                  and sidecar.value('up{source="nvml"}') == 1.0)  # fmt: skip
    check("and replaced", again)


def check_hang(check: Check, sidecar: Sidecar, faults: Faults) -> None:
    """Let calls to the driver hang for a while."""
    faults.hang()
    found = until("hung", lambda: sidecar.value('gpu_failing{reason="hung"}') == 1.0)
    check(
        "a call that hangs is found", found, "; ".join(re.findall(r'reason=hung detail="([^"]*)"', sidecar.log())[-1:])
    )
    began = time.monotonic()
    sidecar.metrics()
    check("scrapes go on meanwhile", time.monotonic() - began < 1.0)
    faults.go_on()
    back = until("GPUs again", lambda: sidecar.value('gpu_failing{reason="hung"}') is None
                 and sidecar.value('up{source="nvml"}') == 1.0)  # fmt: skip
    check("and over when the driver answers again", back)


def check_events(check: Check, sidecar: Sidecar, provoke: Callable[[], str]) -> None:
    """Provoke an XID."""
    events = re.findall(r'gpu_capability{[^}]*group="events"} 1', sidecar.metrics())
    if not events and not until("events", lambda: 'group="events"} 1' in sidecar.metrics(), 5.0):
        print("       this GPU or driver gives no events: not tested")
        return
    before = sidecar.total("gpu_xid_errors_total")
    why_not = provoke()
    if why_not:
        print(f"       no XID was provoked: {why_not}")
        return
    check("an XID is counted", until("an XID", lambda: sidecar.total("gpu_xid_errors_total") > before, 30.0),
          "; ".join(re.findall(r"event=gpu_event (.*)", sidecar.log())[-1:]))  # fmt: skip


def check_end(check: Check, sidecar: Sidecar) -> None:
    """Stop the program: neither it nor its child stays."""
    child = sidecar.child
    began = time.monotonic()
    sidecar.process.terminate()
    sidecar.process.wait(10.0)
    seconds = time.monotonic() - began
    check("SIGTERM ends it within two seconds", seconds < 2.0, f"{seconds:.1f} s")
    check("and its child with it", until("the child ends", lambda: not Path(f"/proc/{child}").exists(), 2.0))


def with_stub(folder: Path, variables: dict[str, str]) -> Faults:
    """Put the stub in the driver's place."""
    library, script = folder / "libnvidia-ml.so.1", folder / "script"
    flags = ["-std=gnu11", "-shared", "-fPIC", "-O1", "-pthread", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run(["cc", *flags, "-o", library, STUB], check=True)
    usual = f"gpus 2\nenergy_flow 600000\nprocess {os.getpid()}\n{variables.get('STUB_LINES', '')}\n"
    variables |= {"LD_LIBRARY_PATH": str(folder), "NVML_STUB_SCRIPT": str(script)}

    def write(more: str = "") -> None:
        new = folder / "script.new"
        new.write_text(usual + more)
        new.replace(script)

    def provoke() -> str:
        write("event 0 8 31\n")
        return ""

    write()
    return Faults(lambda: write("1.hang.nvmlDeviceGetTotalEnergyConsumption 1\n"), write, provoke)


def with_driver(folder: Path, variables: dict[str, str], uuid: str) -> Faults:
    """Have a library before the real one make calls hang, and a kernel make an XID."""
    hang, file = folder / "hang.so", folder / "hang"
    compiler = shutil.which("cc")
    if compiler:
        subprocess.run([compiler, "-shared", "-fPIC", "-o", hang, HERE / "hang.c", "-ldl"], check=True)
        variables |= {"LD_PRELOAD": str(hang), "HANG_FILE": str(file)}
    else:
        print("       no C compiler: a call that hangs is not tested")

    def provoke() -> str:
        if reference(dict(os.environ))[uuid].get("processes"):
            return "somebody computes on the first GPU"
        mine = {name: value for name, value in variables.items() if name != "LD_PRELOAD"}
        command = [sys.executable, HERE / "load.py", uuid, "fault"]
        done = subprocess.run(command, env=mine, capture_output=True, text=True, check=False)
        return "" if "cuCtxSynchronize" in done.stdout else done.stdout.strip() or "the kernel did no harm"

    return Faults(file.touch, lambda: file.unlink(missing_ok=True), provoke)


def main() -> int:
    """Run all checks; return the exit code."""
    stub = "--stub" in sys.argv
    if not stub and not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        print("There is no NVIDIA GPU in this machine: nothing was tested.")
        return 0
    check = Check()
    with tempfile.TemporaryDirectory() as name, ExitStack() as loads:
        folder, variables = Path(name), os.environ | {"PYTHONPATH": str(EXPORTER)}
        for_load = dict(variables)
        if stub:
            faults = with_stub(folder, variables)
            uuids = list(reference(variables))
        else:
            uuids = list(reference(variables))
            faults = with_driver(folder, variables, uuids[0])
            for uuid in uuids:
                print(f"       load on {uuid}: {loads.enter_context(load(uuid, for_load))}")
        plain = {name: value for name, value in variables.items() if name != "LD_PRELOAD"}
        with started(folder, variables) as sidecar:
            check("GPUs are read", until("GPUs", lambda: sidecar.value('up{source="nvml"}') == 1.0))
            print("       " + "\n       ".join(re.findall(r"vllm_sidecar_gpu_info{(.*)} 1", sidecar.metrics())))
            check_values(check, sidecar, plain)
            loads.close()
            check_kill(check, sidecar)
            if stub or "LD_PRELOAD" in variables:
                check_hang(check, sidecar, faults)
            check_events(check, sidecar, faults.provoke)
            check_end(check, sidecar)
    print(f"{check.passed} checks passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
