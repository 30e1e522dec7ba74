"""How near to the best possible accuracy does `python -m mmlib train data/pets/manifest.csv` come?

Trains by the recipe (its defaults, as the command line does) on data/pets, three seeds, all
modalities and each alone, and scores on 5,000 fresh rows of another seed, beside what an observer
who makes no mistake would score on those rows.

    python tests/benchmarks/pets_optimum.py [--rows 5000] [--seeds 0 1 2]
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean

from mmlib import Recipe, classify
from mmlib.worlds import pets

ROOT = Path(__file__).parents[2]
CHOICES = [("image", "text", "audio"), ("image",), ("text",), ("audio",)]

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--rows", type=int, default=5000)
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
arguments = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    world = pets.draw(arguments.rows, seed=1_000_001)
    pets.write(world, folder)
    lines = (Path(folder) / "manifest.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    fresh = Path(folder) / "fresh.csv"
    fresh.write_text(
        lines[0] + "".join(line.rsplit(",", 1)[0] + ",test\n" for line in lines[1:]),
        encoding="utf-8",
    )
    print(
        f"{'modalities':<18}{'optimum':>9}{'accuracy':>10}{'gap':>8}   by seed; seconds to train",
        flush=True,
    )
    for modalities in CHOICES:
        scores, seconds = [], []
        for seed in arguments.seeds:
            run = classify(
                Recipe(
                    ROOT / "data/pets/manifest.csv",
                    use=modalities,
                    seed=seed,
                    log=lambda line: None,
                )
            )
            scores.append(run.predictor.evaluate(fresh)["accuracy"])
            seconds.append(run.metrics["seconds"])
        best = pets.ideal_accuracy(world, modalities)
        print(
            f"{'+'.join(modalities):<18}{best:>9.4f}{mean(scores):>10.4f}"
            f"{mean(scores) - best:>+8.4f}   "
            f"{' '.join(f'{s:.4f}' for s in scores)}; {' '.join(f'{s:.0f}' for s in seconds)}",
            flush=True,
        )
