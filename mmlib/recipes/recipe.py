"""Recipe: what to train on and how, in one object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmlib.data import Augment
from mmlib.recipes.plan import DIM, DROPOUT, LR
from mmlib.recipes.predictor import BATCH


@dataclass(frozen=True)
class Recipe:
    """What to train on and how.

    Only ``manifest`` must be given; what is None is decided from the data, and printed.
    ``manifest`` is a CSV file or a pandas DataFrame, ``out`` the folder for checkpoint and history
    (None: nothing is written). ``columns`` maps a kind of modality to its column, {"image":
    "photo"}; ``use`` keeps some modalities; ``group`` names the column whose rows stay in one
    split. ``fusion`` is a key of ``FUSIONS``. See ``TrainConfig`` for device, precision and
    distributed.

    Why "sum", and modalities hidden that often: a modality that is easy to learn by heart (few
    voices, say) is otherwise trusted also where it is wrong, and the whole does worse than its best
    part. Each must learn to answer alone; their evidence then adds up. Where the answer lies in the
    modalities' interplay (a question about an image), choose another fusion.
    """

    manifest: Any
    out: str | Path | None = None
    target: str = "label"
    task: str | None = None  # "classes", "numbers"; None: told from the target column
    use: Sequence[str] | None = None
    columns: dict[str, str] = field(default_factory=dict)
    group: str | None = None
    fusion: str = "sum"
    dim: int = DIM  # the length of all vectors
    lr: float = LR
    dropout: float = DROPOUT
    batch_size: int = BATCH  # rows a step, of all processes together
    budget: float = (
        1.0  # length of the training where ``epochs`` is None: 1 is about three minutes of one core
    )
    epochs: int | None = None
    seed: int = 0
    resume: bool = False
    augment: Augment = Augment(modality_dropout=0.5)
    on_error: str = "raise"
    allow_outside: bool = False
    device: str = "auto"
    precision: str = "auto"
    distributed: str = "ddp"
    tensorboard: bool = False
    progress: bool = True  # a bar, or in a log file a line an epoch
    log: Callable[[str], None] = print
