"""What does `fit` cost over a bare hand-written loop?

Same model, same batches, same settings, run by turns.

    python tests/benchmarks/fit_against_bare_loop.py [--rounds 7]

Two models: a tiny one, where every microsecond of the loop shows, and the pets model of the recipe,
on real batches of data/pets. CPU time (this process only). Every step is taken at its fastest over
the rounds, and what comes before the first and after the last step counts too: a neighbour on the
machine slows some steps of some rounds, the loop's own cost is in all of them. Beside it the median
and quartiles of whole rounds, as they came. Memory: the peak of a process that does one run and
nothing else; with all that Python and torch take.
"""

import argparse
import copy
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmlib import Augment, Output, TrainConfig, fit, load_data, read_manifest, recipes

ROOT = Path(__file__).parents[2]


class Tiny(nn.Module):
    """Two layers: a step is nearly all overhead."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, batch):
        logits = self.net(batch["x"])
        return Output(
            logits,
            nn.functional.cross_entropy(logits, batch["target"]),
            torch.tensor(float(len(logits))),
        )


def bare(model, batches, config):
    """The loop as one writes it without a library: the same optimizer, schedule, clipping and
    memory format, nothing else.
    """
    model.to(memory_format=torch.channels_last).train()
    groups = [
        {
            "params": [p for p in model.parameters() if p.ndim >= 2],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=True)
    steps, rise = config.epochs * len(batches), round(config.warmup * config.epochs * len(batches))
    step = 0
    for _ in range(config.epochs):
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (
                    (step + 1) / rise
                    if step < rise
                    else 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))
                )
            loss = model(batch).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    return loss.item()


def setting(name):
    """-> model, list of batches, config."""
    torch.manual_seed(0)
    if name == "tiny":
        batches = [
            {"x": torch.randn(32, 32), "target": torch.randint(4, (32,))} for _ in range(200)
        ]
        return Tiny(), batches, TrainConfig(epochs=5, progress=True)
    data = load_data(
        read_manifest(ROOT / "data/pets/manifest.csv"), augment=Augment(), progress=False
    )
    return recipes.build(recipes.plan(data)), list(data.loaders["train"]), TrainConfig(epochs=1)


def run(which, model, batches, config):
    """-> milliseconds from start to first step, from each step to the next, and from the last to
    the end.
    """
    marks = [time.process_time()]
    model.register_forward_pre_hook(lambda *_: marks.append(time.process_time()))
    if which == "fit":
        fit(model, batches, config=config)
    else:
        bare(model, batches, config)
    del marks[1 : -config.epochs * len(batches)]  # fit first looks at one sample: part of its start
    return np.diff([*marks, time.process_time()]) * 1e3


def peak(name, which):
    """Mebibytes at the peak of a process that does one run and nothing else."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import resource; import "
        "fit_against_bare_loop as b; "
        f"b.torch.set_num_threads(1); b.run({which!r}, *b.setting({name!r})); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return float(result.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(
        f"{'model':<8}{'loop':<6}{'ms a step: fastest':<20}"
        f"{'median round (quartiles)':<30}{'peak, MiB':>10}"
    )
    for name in ("tiny", "pets"):
        model, batches, config = setting(name)
        times = {"bare": [], "fit": []}
        for number in range(rounds + 1):
            for which in sorted(
                times, reverse=number % 2 == 1
            ):  # by turns, each first as often as the other
                taken = run(which, copy.deepcopy(model), batches, config)
                if number:  # the first round only warms up
                    times[which].append(taken)
        steps, fastest = config.epochs * len(batches), {}
        for which, values in times.items():
            fastest[which] = np.min(values, axis=0).sum() / steps
            low, middle, high = np.percentile(np.sum(values, axis=1) / steps, [25, 50, 75])
            spread = f"{middle:.3f} ({low:.3f} to {high:.3f})"
            print(
                f"{name:<8}{which:<6}{fastest[which]:<20.3f}{spread:<30}{peak(name, which):>10.0f}"
            )
        print(
            f"{name:<8}fit / bare: {fastest['fit'] / fastest['bare']:.3f}, {rounds} rounds by turns"
        )


if __name__ == "__main__":
    main()
