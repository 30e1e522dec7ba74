"""The package's parts against the plain thing, by turns: encoders and fusions, images and sounds
from files, start-up.

    python tests/benchmarks/parts.py [--rounds 15]

CPU time with one thread; the median over the rounds, with quartiles. BottleneckFusion has no
counterpart in PyTorch, and none here.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import plain_parts  # noqa: E402

import mmlib  # noqa: E402
from mmlib.core import from_tokens  # noqa: E402

B, D, VOCABULARY, NAMES = 32, 64, 1000, ("audio", "image", "text")


def by_turns(runs: dict, rounds: int) -> dict[str, np.ndarray]:
    """Each function once a round; CPU milliseconds (rounds,), the first two rounds left out."""
    times = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            started = time.process_time()
            runs[name]()
            times[name].append((time.process_time() - started) * 1e3)
    return {name: np.array(values[2:]) for name, values in times.items()}


def line(name: str, times: dict[str, np.ndarray]) -> str:
    """A row: both times, and how many times as fast as the plain thing mmlib is."""
    ours, plain = times["mmlib"], times["plain"]
    low, middle, high = np.percentile(plain / ours, [25, 50, 75])
    return (
        f"| {name} | {np.median(ours):.3g} | {np.median(plain):.3g} | {middle:.2f} ({low:.2f} "
        f"to {high:.2f}) |"
    )


def step(model, *inputs):
    """Forward and backward."""

    def run():
        model.zero_grad()
        found = model(*inputs)
        (found if isinstance(found, torch.Tensor) else found.pooled).square().mean().backward()

    return run


def encoders(rounds: int) -> list[str]:
    """Forward and backward of a batch that is full: the plain form cannot do others rightly."""
    make = {
        "image": torch.randn(B, 3, 64, 64),
        "text": torch.randint(1, VOCABULARY, (B, 24)),
        "audio": torch.randn(B, 16_000) / 10,
    }
    modalities = {
        "Conv": "image",
        "ViT": "image",
        "ResNet": "image",
        "Recurrent": "text",
        "Transformer": "text",
        "Audio": "audio",
    }
    rows = []
    for name, plain in plain_parts.encoders(D, VOCABULARY).items():
        modality = next(value for start, value in modalities.items() if name.startswith(start))
        ours = (
            getattr(mmlib, name)(D, VOCABULARY) if modality == "text" else getattr(mmlib, name)(D)
        )
        x = make[modality]
        mask = torch.ones(B, x.shape[-1], dtype=torch.bool)
        if modality == "image":  # as fit has them
            x, ours = (
                x.contiguous(memory_format=torch.channels_last),
                ours.to(memory_format=torch.channels_last),
            )
        rows.append(
            line(
                name,
                by_turns(
                    {"mmlib": step(ours, x, mask), "plain": step(plain, make[modality])}, rounds
                ),
            )
        )
    return [
        "| encoder | mmlib, ms | plain, ms | speed against plain (quartiles) |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def fusions(rounds: int) -> list[str]:
    """Forward and backward; three modalities of 16 tokens each."""
    tokens = {name: torch.randn(B, 16, D) for name in NAMES}
    features = {
        name: from_tokens(x, torch.ones(B, 16, dtype=torch.bool)) for name, x in tokens.items()
    }
    vectors = [x.mean(dim=1) for x in tokens.values()]
    rows = []
    for name, plain in plain_parts.fusions(D, len(NAMES)).items():
        ours = getattr(mmlib, name)(D, NAMES)
        ten = lambda run: lambda: [run() for _ in range(10)]
        times = by_turns(
            {
                "mmlib": ten(step(ours, features)),
                "plain": ten(step(plain, vectors, list(tokens.values()))),
            },
            rounds,
        )
        rows.append(line(name, {key: value / 10 for key, value in times.items()}))
    return [
        "| fusion | mmlib, ms | plain, ms | speed against plain (quartiles) |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def files(rounds: int) -> list[str]:
    """Reading 64 files: mmlib to what a batch is made of, against Pillow and soundfile bare
    (decode, resize, convert).
    """
    import soundfile
    from PIL import Image

    def bare_picture(path):
        with Image.open(path) as picture:
            return torch.from_numpy(
                np.array(picture.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR))
            )

    rows, rng = [], np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for label, size, kind in (
            ("JPEG 224", 224, "jpg"),
            ("JPEG 500", 500, "jpg"),
            ("PNG 224", 224, "png"),
        ):
            noise = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).resize(
                (size, size), Image.Resampling.BICUBIC
            )
            paths = [f"{folder}/{label}{i}.{kind}" for i in range(64)]
            for path in paths:
                noise.save(path)
            rows.append(
                (
                    label,
                    by_turns(
                        {
                            "mmlib": lambda paths=paths: [
                                mmlib.read_image(path, 64) for path in paths
                            ],
                            "plain": lambda paths=paths: [bare_picture(path) for path in paths],
                        },
                        rounds,
                    ),
                )
            )
        for label, kind in (("WAV 1 s", "wav"), ("FLAC 1 s", "flac"), ("OGG 1 s", "ogg")):
            paths = [f"{folder}/{i}.{kind}" for i in range(64)]
            for path in paths:
                soundfile.write(path, rng.normal(0, 0.1, 16_000), 16_000)
            rows.append(
                (
                    label,
                    by_turns(
                        {
                            "mmlib": lambda paths=paths: [mmlib.read_audio(path) for path in paths],
                            "plain": lambda paths=paths: [
                                soundfile.read(path, dtype="float32") for path in paths
                            ],
                        },
                        rounds,
                    ),
                )
            )
    text = [
        f"| {label} | {64e3 / np.median(times['mmlib']):,.0f} | "
        f"{64e3 / np.median(times['plain']):,.0f} | "
        f"{np.median(times['plain'] / times['mmlib']):.2f} |"
        for label, times in rows
    ]
    return [
        "| files | mmlib, a second | bare, a second | speed against bare |",
        "|---|---|---|---|",
        *text,
        "",
    ]


def starts(rounds: int) -> list[str]:
    """CPU seconds of whole processes."""

    def cpu(*command: str) -> float:
        before = os.times()
        subprocess.run(
            [sys.executable, *command],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        after = os.times()
        return (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )

    commands = {
        "import torch": ("-c", "import torch"),
        "import mmlib": ("-c", "import mmlib"),
        "python -m mmlib --help": ("-m", "mmlib", "--help"),
    }
    times = {name: [] for name in commands}
    for _ in range(max(3, rounds // 3)):
        for name, command in commands.items():
            times[name].append(cpu(*command))
    return [
        "| start | CPU seconds (lowest to highest) |",
        "|---|---|",
        *(
            f"| `{name}` | {np.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) |"
            for name, values in times.items()
        ),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    page = ["## Parts", "", "Forward and backward, one thread; `plain` is plain_parts.py.", ""]
    for part in (encoders, fusions, files, starts):
        page += part(arguments.rounds)
    print("\n".join(page))


if __name__ == "__main__":
    main()
