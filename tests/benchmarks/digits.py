"""ConvEncoder on real handwriting, as in notebooks/03_cnn: scikit-learn's digits, first half of the
rows against the second.

    OMP_NUM_THREADS=1 python tests/benchmarks/digits.py [--seeds 5]

Prints accuracy and CPU seconds of each seed, their mean, and scikit-learn's SVM beside them.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from mmlib import Augment, Backbone, ClassifyHead, ConvEncoder, Model, TrainConfig, evaluate, fit
from mmlib.data.augment import IMAGE_DRAWS, change_images
from mmlib.metrics.scores import accuracy

HALF, B = 898, 32
GENTLE = Augment(rotate=10, scale=0.1, shift=0.08, shear=0.1, brightness=0, contrast=0)


def batch_of(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"image": x, "image_mask": torch.ones(len(x), x.shape[3], dtype=torch.bool), "target": y}


class Shown:
    """The training half in a new order each pass, each digit changed a little."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, seed: int):
        self.x, self.y, self.make = x, y, torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.x) // B)

    def __iter__(self):
        for rows in torch.randperm(len(self.x), generator=self.make).split(B):
            u = torch.rand(len(rows), IMAGE_DRAWS, generator=self.make)
            yield batch_of(change_images(self.x[rows], u, GENTLE), self.y[rows])


def learn(x: torch.Tensor, y: torch.Tensor, seed: int) -> float:
    torch.manual_seed(seed)
    encoder = ConvEncoder(64, channels=1, width=32, stages=3)
    model = Model(
        Backbone({"image": encoder}, lambda features: features["image"]), ClassifyHead(64, 10)
    )
    fit(
        model,
        Shown(x[:HALF], y[:HALF], seed),
        config=TrainConfig(epochs=20, lr=3e-3, seed=seed, progress=False),
    )
    return evaluate(model, [batch_of(x[HALF:], y[HALF:])], {"accuracy": accuracy})["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    seeds, digits = range(parser.parse_args().seeds), load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    x, y, scores = F.interpolate(x, size=(16, 16), mode="bilinear"), torch.tensor(digits.target), []
    for seed in seeds:
        started = time.process_time()
        scores.append(learn(x, y, seed))
        print(f"seed {seed}: {scores[-1]:.4f}, {time.process_time() - started:.1f} s", flush=True)
    svm = (
        SVC(gamma=0.001)
        .fit(digits.data[:HALF], digits.target[:HALF])
        .score(digits.data[HALF:], digits.target[HALF:])
    )
    print(f"mean {sum(scores) / len(scores):.4f}, lowest {min(scores):.4f}; SVM {svm:.4f}")


if __name__ == "__main__":
    main()
