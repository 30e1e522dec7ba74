"""Recipe: what to train on and how, in one object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmlib.data import Augment, Data, Manifest, Preprocessing, load_data, read_manifest
from mmlib.data.targets import check_task
from mmlib.recipes.plan import DIM, DROPOUT, LR, plan
from mmlib.recipes.predictor import BATCH


@dataclass(frozen=True)
class Recipe:
    """What to train on and how.

    Only ``manifest`` must be given; what is None is decided from the data, and printed.
    ``manifest`` is a CSV file or a pandas DataFrame, ``out`` the folder for checkpoint and history
    (None: nothing is written). ``columns`` maps a kind of modality to its column, {"image":
    "photo"}; ``use`` keeps some modalities; ``group`` names the column whose rows stay in one
    split. ``fusion`` is a key of ``FUSIONS``. ``start`` is the folder of a run of ``train`` on
    other rows: training begins from its best weights, and data are prepared as for it (sizes,
    normalisation, vocabularies), so modalities, classes, fusion and dim must be the same. See
    ``TrainConfig`` for device, precision and distributed. Raises ValueError for an unknown task.

    Why "sum", and so much modality dropout: a modality that is easy to learn by heart (few voices,
    say) is otherwise trusted also where it is wrong, and the whole does worse than its best part.
    Each must learn to answer alone; their evidence then adds up. Where the answer lies in the
    interplay of the modalities (a question about an image), choose another fusion.

    >>> recipe = Recipe("photos.csv", target="species", columns={"image": "photo"}, epochs=20)
    >>> recipe.fusion, recipe.batch_size
    ('sum', 32)
    """

    manifest: Any
    out: str | Path | None = None
    target: str | Sequence[str] = "label"  # "red,round": columns of 0 and 1, one for each label
    task: str | None = None  # "classification", "regression", "labels"; None: as the cells say
    use: Sequence[str] | None = None
    columns: dict[str, str] = field(default_factory=dict)
    table: str | Sequence[str] = ()  # "age,weight,colour": the same as columns={"table": ...}
    group: str | None = None
    fusion: str = "sum"
    dim: int = DIM  # the length of all vectors
    lr: float = LR
    dropout: float = DROPOUT
    batch_size: int = BATCH  # rows per step, of all processes together
    budget: float = 1.0  # length without ``epochs``: 1 is about three minutes of one core
    epochs: int | None = None
    seed: int = 0
    resume: bool = False
    start: str | Path | None = None  # the folder of a run whose weights to begin from
    augment: Augment = Augment(modality_dropout=0.5)
    on_error: str = "raise"
    allow_outside: bool = False
    device: str = "auto"
    precision: str = "auto"
    distributed: str = "ddp"
    tensorboard: bool = False
    progress: bool = True  # a bar, or in a log file a line for each epoch
    log: Callable[[str], None] = print

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", check_task(self.task, depth=3))
        if not isinstance(self.target, str):
            object.__setattr__(self, "target", ",".join(self.target))
        if self.table:
            names = self.table if isinstance(self.table, str) else ",".join(self.table)
            object.__setattr__(self, "columns", {**self.columns, "table": names})

    def read(self) -> Manifest:
        """The rows to train on, checked. Raises ValueError, see ``read_manifest``."""
        return read_manifest(
            self.manifest, self.target, self.columns, self.group, self.use, self.allow_outside
        )

    def plan(self, data: Data) -> dict[str, Any]:
        """The model and the number of epochs for these data, see ``mmlib.recipes.plan.plan``."""
        return plan(data, self.fusion, self.dim, self.lr, self.dropout, self.budget)

    def load(
        self,
        manifest: Manifest,
        splits: Sequence[str] | None = None,
        fitted: Preprocessing | None = None,
    ) -> Data:
        """The data of these rows, as the recipe wants it; ``splits``: of these alone.

        With ``fitted`` they are prepared as it says.
        """
        return load_data(
            manifest,
            fitted,
            splits=splits,
            batch_size=self.batch_size,
            seed=self.seed,
            augment=self.augment,
            task=self.task,
            on_error=self.on_error,
        )
