"""How well are spoken digits heard from voices never heard before?

The classical way and two encoders, several seeds. Trains on the train voices of data/speech,
chooses nothing on the exam, and scores on the eight test voices (160 clips a language): MFCC +
logistic regression without and with the order of the clip's quarters, then each encoder with and
without augmentation.

    python tests/benchmarks/speech.py [--language english mandarin] [--seeds 0 1 2 3 4] [--epochs
    12]
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, pstdev

import numpy as np
import torch
import torchaudio
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmlib import (
    AudioConvEncoder,
    AudioRecurrentEncoder,
    Augment,
    Backbone,
    Batch,
    ClassifyHead,
    Model,
    TrainConfig,
    evaluate,
    fit,
    load_data,
    read_manifest,
)
from mmlib.metrics.scores import accuracy

SPEECH, WIDTH = Path(__file__).parents[2] / "data" / "speech", 48
ENCODERS = {
    "AudioConvEncoder": lambda: AudioConvEncoder(WIDTH, width=8),
    "AudioRecurrentEncoder": lambda: AudioRecurrentEncoder(WIDTH, cell="gru"),
}


def table(batches: Iterable[Batch], order: bool) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations of each clip's MFCC, with ``order`` also the means of its quarters;
    and the digits.
    """
    form = {
        "n_fft": 512,
        "win_length": 400,
        "hop_length": 160,
        "n_mels": 64,
        "pad_mode": "constant",
    }
    mfcc, rows, digits = torchaudio.transforms.MFCC(16_000, 20, melkwargs=form), [], []
    for batch in batches:
        for sound, real in zip(batch["audio"], batch["audio_mask"]):
            c = mfcc(sound[real])  # (20, T)
            quarters = [part.mean(dim=1) for part in c.tensor_split(4, dim=1)] if order else []
            rows.append(torch.cat([c.mean(dim=1), c.std(dim=1), *quarters]))
        digits.append(batch["target"])
    return torch.stack(rows).numpy(), torch.cat(digits).numpy()


def report(language: str, name: str, scores: list[float], seconds: float) -> None:
    spread = f" ± {pstdev(scores):.3f}" if len(scores) > 1 else "        "
    each = " ".join(f"{score:.3f}" for score in scores)
    print(
        f"{language:<10}{name:<42}{mean(scores):.3f}{spread}   {each}; {seconds:.1f} s each",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--language", nargs="+", default=["english", "mandarin"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    for language in arguments.language:
        manifest = read_manifest(SPEECH / f"{language}_digits.csv", group="voice")
        plain = load_data(manifest, augment=None, progress=False).loaders
        for name, order in (
            ("MFCC + logistic regression, no order", False),
            ("MFCC + logistic regression, quarters", True),
        ):
            start = time.process_time()
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(
                *table(plain["train"], order)
            )
            report(
                language,
                name,
                [model.score(*table(plain["test"], order))],
                time.process_time() - start,
            )
        for name, make in ENCODERS.items():
            for augment in (None, Augment()):
                scores, start = [], time.process_time()
                for seed in arguments.seeds:
                    train = load_data(manifest, augment=augment, seed=seed, progress=False).loaders[
                        "train"
                    ]
                    torch.manual_seed(seed)
                    model = Model(
                        Backbone({"audio": make()}, lambda features: features["audio"]),
                        ClassifyHead(WIDTH, 10),
                    )
                    config = TrainConfig(
                        epochs=arguments.epochs, lr=4e-3, seed=seed, progress=False, device="cpu"
                    )
                    fit(model, train, plain["val"], config)
                    scores.append(
                        evaluate(model, plain["test"], {"accuracy": accuracy}, "cpu")["accuracy"]
                    )
                seconds = (time.process_time() - start) / len(scores)
                report(
                    language, f"{name}, {'augmented' if augment else 'as it is'}", scores, seconds
                )


if __name__ == "__main__":
    main()
