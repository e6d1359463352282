"""A fuzzing campaign, by hand: `python tests/fuzz TARGET SECONDS [BYTES]`; targets are those of `targets.py`.

Inputs have at most so many bytes, 20,000 by default; with 200 most targets are tried six times as often.

It is guided by coverage where atheris is installed (`pip install atheris`), and otherwise mutates the corpus. An input
that fails is written next to the corpus; with a fix it becomes a part of it, and `test_fuzz.py` tries it from then on.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent.parent / "exporter")]

DIGITS = [b"NaN", b"+Inf", b"-1", b"0", b"1e308", b"1e15", b"9" * 40, b"5e-324"]
PIECES = [b"\n", b"\n---\n", b'"', b"\\", b"{", b"}", b",", b"=", b" ", b"#", b"://", b"@", b"# EOF", b"# TYPE "]


def mutated(data: bytes, corpus: list[bytes], chance: random.Random, most: int) -> bytes:
    """Change an input in a few places; it has `most` bytes afterwards, or fewer."""
    for _ in range(chance.randint(1, 6)):
        place, length = chance.randint(0, len(data)), chance.choice((0, 1, 1, 4, 40))
        lines = data.split(b"\n")
        line = chance.randrange(len(lines))
        match chance.randrange(6):
            case 0:
                data = data[:place] + chance.randbytes(chance.randint(1, 4)) + data[place + length :]
            case 1:
                data = data[:place] + chance.choice(PIECES) + data[place + length :]
            case 2:
                lines[line] = lines[line].rpartition(b" ")[0] + b" " + chance.choice(DIGITS)
                data = b"\n".join(lines)
            case 3:
                del lines[line]
                data = b"\n".join(lines)
            case 4:
                lines.insert(line, chance.choice(chance.choice(corpus).split(b"\n")))
                data = b"\n".join(lines)
            case _:
                data = data + b"\n---\n" + chance.choice(corpus)
    return data[:most]


def loop(name: str, seconds: float, most: int) -> None:
    """Try mutated inputs for some time."""
    from targets import TARGETS

    corpus = [path.read_bytes() for path in sorted((HERE / "corpus").iterdir())]
    seed = random.SystemRandom().randrange(2**32)
    chance, count, until = random.Random(seed), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        data = mutated(chance.choice(corpus), corpus, chance, most)
        count += 1
        try:
            TARGETS[name](data)
        except Exception:
            failed = HERE / f"failed-{name}-{count}"
            failed.write_bytes(data)
            sys.stderr.write(f"seed {seed}, input {count}: {failed}\n")
            raise
    sys.stdout.write(f"{name}: {count} inputs in {seconds:g} s, mutated, seed {seed}\n")


def main() -> None:
    """Run one target with atheris, or without it in the loop above."""
    name, seconds, most = sys.argv[1], float(sys.argv[2]), int((*sys.argv, "20000")[3])
    try:
        import atheris
    except ImportError:
        loop(name, seconds, most)
        return
    with atheris.instrument_imports(include=["vllm_sidecar"]):
        from targets import TARGETS
    # New inputs go to the first folder.
    with tempfile.TemporaryDirectory() as new:
        flags = [f"-max_total_time={seconds:g}", f"-max_len={most}", "-print_final_stats=1"]
        flags += [f"-artifact_prefix={HERE}/failed-{name}-", new, str(HERE / "corpus")]
        atheris.Setup([sys.argv[0], *flags], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
