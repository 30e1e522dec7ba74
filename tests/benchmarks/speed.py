"""One training step in mmlib and in other frameworks: the same network, batches and threads, by
turns in one run.

    python -m venv peers && peers/bin/pip install -e . -r tests/benchmarks/peers.txt
    peers/bin/python tests/benchmarks/speed.py [--rounds 5] [--sizes 4 64 224] [--threads 1 2]

Each contender is a process of its own (loops.py) that waits while another trains. A number is the
median over all steps of all rounds, with quartiles; the speed is the plain loop's step of the same
round divided by the contender's, the median over the rounds. Size 4 is the tiny model, in which a
step is nearly all the loop's own work. With one thread the time is the CPU's, else the clock's.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import numpy as np

HERE = Path(__file__).parent
CONTENDERS = [
    "plain",
    "mmlib",
    "mmlib huge",
    "mmlib bf16",
    "mmlib huge bf16",
    "lightning-off",
    "lightning",
    "accelerate",
    "keras-torch",
    "keras-tensorflow",
]
STEPS = {4: 400, 64: 40, 224: 4}
MEANING = """`plain` is the loop as one writes it; `mmlib` is `fit` with its defaults, on the same
network run as mmlib runs one (network.py: `Ours`; a test holds the results equal); `huge`: started
with the environment variable GLIBC_TUNABLES=glibc.malloc.hugetlb=1, by which glibc asks Linux for
pages of 2 MiB; `lightning-off` has everything turned off that can be."""


def start(contender: str, size: int, threads: int) -> subprocess.Popen:
    """The contender's process, waiting for a number of steps."""
    pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if "huge" in contender else {}
    quiet = pages | {
        "OMP_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [
        sys.executable,
        str(HERE / "loops.py"),
        contender,
        "tiny" if size == 4 else "sketch",
        str(size),
        str(threads),
    ]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=HERE,
        env=os.environ | quiet,
    )


def ask(process: subprocess.Popen, steps: int) -> dict:
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit(
            f"{process.args}: ended without an answer; run it by hand and give it a number"
        )
    return json.loads(line)


def measure(size: int, threads: int, rounds: int, contenders: list[str]) -> list[str]:
    """The rows of one table."""
    processes = {name: start(name, size, threads) for name in contenders}
    found = {name: [] for name in contenders}
    for number in range(rounds):
        for name in contenders if number % 2 else contenders[::-1]:
            found[name].append(ask(processes[name], STEPS[size]))
        print(
            f"size {size}, {threads} thread(s): round {number + 1} of {rounds}",
            file=sys.stderr,
            flush=True,
        )
    for process in processes.values():
        process.stdin.close()
        process.wait()
    title = (
        f"{'tiny' if size == 4 else f'{size} x {size}'}, {threads} "
        f"thread{'s' if threads > 1 else ''}"
    )
    rows = [
        f"| {title} | ms a step (quartiles) | speed (lowest to highest round) | peak, MiB |",
        "|---|---|---|---|",
    ]
    base = [median(answer["seconds"]) for answer in found["plain"]]
    for name, answers in found.items():
        low, middle, high = np.percentile(
            [second * 1e3 for answer in answers for second in answer["seconds"]], [25, 50, 75]
        )
        speeds = [one / median(answer["seconds"]) for one, answer in zip(base, answers)]
        rows.append(
            f"| {name} | {middle:.3g} ({low:.3g} to {high:.3g}) | {median(speeds):.2f} "
            f"({min(speeds):.2f} to {max(speeds):.2f}) "
            f"| {answers[-1]['peak']:,.0f} |"
        )
    return rows + [""]


def machine() -> str:
    """What this ran on and with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?"
    )
    found = []
    for name in ("torch", "lightning", "accelerate", "keras", "tensorflow-cpu"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}, Python "
        f"{platform.python_version()}; {', '.join(found)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 64, 224], choices=STEPS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--only",
        nargs="+",
        default=CONTENDERS,
        choices=CONTENDERS,
        help="plain is always among them",
    )
    arguments = parser.parse_args()
    contenders = [name for name in CONTENDERS if name == "plain" or name in arguments.only]
    print(
        "\n".join(["## A training step", "", machine(), "", " ".join(MEANING.split()), ""]),
        flush=True,
    )
    for threads in arguments.threads:
        for size in arguments.sizes:
            print("\n".join(measure(size, threads, arguments.rounds, contenders)), flush=True)


if __name__ == "__main__":
    main()
