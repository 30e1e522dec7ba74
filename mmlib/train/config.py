"""TrainConfig: the settings of a training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training.

    The defaults are meant to work. ``dataclasses.replace(config, lr=...)`` makes a changed copy.
    Raises ValueError, naming the setting, for one that is out of range.

    >>> TrainConfig(epochs=0)
    Traceback (most recent call last):
    ValueError: TrainConfig: epochs is 0, expected 1 or more
    """

    epochs: int = 10
    # the highest learning rate, reached at the end of the warm-up; an optimizer of your own
    # (``fit(optimizer=)``) sets its own rates and its own weight decay
    lr: float = 1e-3
    weight_decay: float = 0.01  # of weights with two axes or more; biases and norms have none
    # share of all steps in which the rate rises; after it, the rate falls along a cosine to zero
    warmup: float = 0.05
    clip: float = 1.0  # the largest norm of the gradient; math.inf: no limit
    accumulate: int = 1  # batches per step
    precision: str = "auto"  # "fp32", "bf16"; "auto": bf16 on GPUs that have it, fp32 elsewhere
    compile: bool = False  # torch.compile: only on GPUs is it worth the minute that it takes
    channels_last: bool = True  # images and convolutions pixel by pixel: same result, faster
    patience: int = 0  # stop after this many epochs without a better score; 0: never
    # the score that decides which epoch is best: "min" or "max", and its name in the history
    monitor: str = "min val_loss"
    seed: int = 0  # of dropout; the order of the data has its own seed, in the loader
    device: str = "auto"  # "cuda", "cuda:1", "mps", "cpu"; "auto": cuda, else mps, else cpu
    # under torchrun: "ddp", or "fsdp" for weights that do not fit on one GPU
    distributed: str = "ddp"
    # also save a checkpoint after every so many steps; 0: only after each epoch
    checkpoint_every: int = 0
    tensorboard: bool = False  # also write events to out/tensorboard
    progress: bool = True  # a bar, in notebooks and terminals
    # on a CPU under Linux, see mmlib.keep_freed_memory: faster, takes more memory
    keep_freed_memory: bool = True

    def __post_init__(self) -> None:
        direction, _, score = self.monitor.partition(" ")
        rules = [
            ("epochs", self.epochs >= 1, "1 or more"),
            ("lr", self.lr > 0, "a number above 0"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("warmup", 0 <= self.warmup <= 1, "a share from 0 to 1"),
            ("clip", self.clip > 0, "a number above 0 (math.inf: no clipping)"),
            ("accumulate", self.accumulate >= 1, "1 or more"),
            ("patience", self.patience >= 0, "0 (never stop early) or more"),
            ("precision", self.precision in ("auto", "fp32", "bf16"), "'auto', 'fp32' or 'bf16'"),
            ("distributed", self.distributed in ("ddp", "fsdp"), "'ddp' or 'fsdp'"),
            ("checkpoint_every", self.checkpoint_every >= 0, "0 (only after each epoch) or more"),
            (
                "monitor",
                direction in ("min", "max") and score.startswith("val_"),
                "'min val_loss', 'max val_accuracy' or another score of val",
            ),
        ]
        for name, fine, expected in rules:
            if not fine:
                raise ValueError(
                    f"TrainConfig: {name} is {getattr(self, name)!r}, expected {expected}"
                )
