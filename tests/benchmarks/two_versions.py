"""Two versions of mmlib by turns, on the same network, batches and files: how much faster is one?

    git worktree add /tmp/before main
    python tests/benchmarks/two_versions.py /tmp/before [--only pets-fp32 pets-bf16] [--rounds 9]

Each version is a process of its own, which waits while the other works. One thread, CPU time;
medians, and the median and quartiles of the ratios of a round. The load average at the start says
how busy the machine was.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
PETS = ROOT / "data" / "pets"
Run = Callable[[], object]


def pets_recipe(precision: str) -> Run:
    """An epoch of ``fit`` over the same 12 batches of data/pets, with the recipe's network."""
    from mmlib import TrainConfig, fit, load_data, read_manifest
    from mmlib.recipes.plan import build, plan

    data = load_data(read_manifest(PETS / "manifest.csv", "label"), augment=None, progress=False)
    spec, batches = plan(data), [batch for batch, _ in zip(data.loaders["train"], range(12))]
    config = TrainConfig(epochs=1, device="cpu", progress=False, precision=precision)

    def run() -> float:
        torch.manual_seed(0)
        return fit(build(spec), batches, config=config)[-1]["loss"]

    return run


def step(name: str) -> Run:
    """Forward and backward of an encoder, on a batch of 32, laid out as ``fit`` does."""
    import mmlib

    encoder = getattr(mmlib, name)(64).to(memory_format=torch.channels_last)
    x = torch.randn(32, 3, 64, 64) if name == "ConvEncoder" else torch.randn(32, 16_000) / 10
    x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    mask = torch.ones(32, x.shape[-1], dtype=torch.bool)

    def run() -> None:
        encoder.zero_grad()
        encoder(x, mask).pooled.square().mean().backward()

    return run


def samples(count: int) -> list[dict]:
    """Rows of data/pets that have all modalities, as ``Predictor.predict`` takes them."""
    with open(PETS / "manifest.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["image"] and row["audio"]]
    return [
        {"image": PETS / row["image"], "audio": PETS / row["audio"], "text": row["text"]}
        for row in rows[:count]
    ]


def loaded(ask: Callable[..., Run]) -> Run:
    """What ``ask`` makes of a model that was trained for an epoch, saved and loaded."""
    import mmlib

    folder = tempfile.mkdtemp()
    quiet = {"log": lambda line: None, "progress": False, "device": "cpu"}
    recipe = mmlib.Recipe(PETS / "manifest.csv", out=f"{folder}/run", epochs=1, **quiet)
    mmlib.classify(recipe)
    return ask(mmlib.load(f"{folder}/run", "cpu"))


def bare(predictor, count: int) -> Run:
    batch = predictor.preprocessing.batch(samples(count))
    return torch.inference_mode()(lambda: predictor.model(batch))


def predicting(predictor, count: int) -> Run:
    rows = samples(count)
    return lambda: predictor.answers(rows)


def sounds() -> Run:
    """64 WAV files of one second."""
    import soundfile

    import mmlib

    folder, rng = tempfile.mkdtemp(), np.random.default_rng(0)
    paths = [f"{folder}/{i}.wav" for i in range(64)]
    for path in paths:
        soundfile.write(path, rng.normal(0, 0.1, 16_000), 16_000)
    return lambda: [mmlib.read_audio(path) for path in paths]


def log_mel() -> Run:
    import mmlib

    mel, x, mask = mmlib.LogMel(), torch.randn(32, 16_000) / 10, torch.ones(32, 16_000).bool()
    return lambda: mel(x, mask)


# of each task: how to begin, and how often it runs in a round
TASKS: dict[str, tuple[Callable[[], Run], int]] = {
    "pets-fp32": (lambda: pets_recipe("fp32"), 1),
    "pets-bf16": (lambda: pets_recipe("bf16"), 1),
    "ConvEncoder": (lambda: step("ConvEncoder"), 3),
    "AudioConvEncoder": (lambda: step("AudioConvEncoder"), 3),
    "AudioRecurrentEncoder": (lambda: step("AudioRecurrentEncoder"), 5),
    "LogMel": (log_mel, 5),
    "forward-1": (lambda: loaded(lambda p: bare(p, 1)), 10),
    "forward-32": (lambda: loaded(lambda p: bare(p, 32)), 2),
    "predict-1": (lambda: loaded(lambda p: predicting(p, 1)), 10),
    "predict-1-text": (lambda: loaded(lambda p: lambda: p.predict(text="It purrs.")), 10),
    "predict-32": (lambda: loaded(lambda p: predicting(p, 32)), 2),
    "wav": (sounds, 3),
}


def work(task: str) -> None:
    """Run the task once for each line of the standard input, and print the milliseconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    begin, times = TASKS[task]
    run = begin()
    for _ in range(2):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.process_time()
        for _ in range(times):
            run()
        print((time.process_time() - started) / times * 1e3, flush=True)


def measure(task: str, roots: list[Path], rounds: int) -> str:
    """A row of the table."""
    processes = []
    for root in roots:
        process = subprocess.Popen(
            [sys.executable, str(HERE), str(root), "--work", task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tempfile.gettempdir(),
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        )
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{task} cannot run with the mmlib of {root}")
        processes.append(process)
    found = np.zeros((rounds, 2))
    for number in range(rounds):
        for i in (0, 1) if number % 2 else (1, 0):
            processes[i].stdin.write("\n")
            processes[i].stdin.flush()
            found[number, i] = float(processes[i].stdout.readline())
    for process in processes:
        process.stdin.close()
        process.wait()
    before, after = np.median(found, axis=0)
    low, middle, high = np.percentile(found[:, 0] / found[:, 1], [25, 50, 75])
    return f"| {task} | {before:.3g} | {after:.3g} | {middle:.2f} ({low:.2f} to {high:.2f}) |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="a folder with another version of mmlib/")
    parser.add_argument("--only", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", choices=TASKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work(arguments.work)
    print(f"{arguments.rounds} rounds, load average {os.getloadavg()[0]:.1f} at the start\n")
    print("| task | before, ms | after, ms | speed (quartiles) |\n|---|---|---|---|")
    for task in arguments.only:
        print(measure(task, [arguments.before.resolve(), ROOT], arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
