"""One plain function per task: a Recipe in, a trained model, its data and its metrics out; ``load`` brings a saved one back."""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib import checkpoint, distributed, fusion, metrics
from mmlib.data import Augment, Data, Loader, Preprocessing, load_data, read_manifest
from mmlib.data.audio import RATE, WINDOW
from mmlib.data.loaders import has_sense
from mmlib.encoders import AudioConvEncoder, ConvEncoder, RecurrentEncoder
from mmlib.heads import ClassifyHead, RegressHead
from mmlib.models import Backbone, Model
from mmlib.train import History, TrainConfig, collect, evaluate, fit

FUSIONS = {name.removesuffix("Fusion").lower(): getattr(fusion, name) for name in fusion.__all__}
DIM, DROPOUT, BATCH, LR = 64, 0.1, 32, 2e-3
WIDTHS = {32: 32, 64: 16, 96: 12, 128: 8}  # channels of the first convolution by picture size
BUDGET, MOST_EPOCHS = 7.5e11, 60            # multiplications of all forward passes of a training
SCORES = {"classes": {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1},
          "numbers": {"mean_absolute_error": metrics.mean_absolute_error, "r2": metrics.r2}}


@dataclass(frozen=True)
class Recipe:
    """What to train on and how. Only ``manifest`` must be given; what is None is decided from the data, and printed.

    ``manifest`` is a CSV file or a pandas DataFrame, ``out`` the folder for checkpoint and history (None: nothing is written).
    ``columns`` maps a kind of sense to its column, {"image": "photo"}; ``use`` keeps some senses; ``group`` names the column whose
    rows stay in one split. ``fusion`` is a key of ``FUSIONS``. See ``TrainConfig`` for device, precision and distributed.

    Why "sum", and senses hidden that often: a sense that is easy to learn by heart (few voices, say) is otherwise trusted also
    where it is wrong, and the whole does worse than its best part. Each must learn to answer alone; their evidence then adds up.
    Where the answer lies in the senses' interplay (a question about a picture), choose another fusion.
    """

    manifest: Any
    out: str | Path | None = None
    target: str = "label"
    task: str | None = None            # "classes", "numbers"; None: told from the target column
    use: Sequence[str] | None = None
    columns: dict[str, str] = field(default_factory=dict)
    group: str | None = None
    fusion: str = "sum"
    epochs: int | None = None
    seed: int = 0
    resume: bool = False
    augment: Augment = Augment(hide=0.5)
    on_error: str = "raise"
    allow_outside: bool = False
    device: str = "auto"
    precision: str = "auto"
    distributed: str = "ddp"
    tensorboard: bool = False
    log: Callable[[str], None] = print


@dataclass(frozen=True)
class Run:
    """What training returns. ``metrics``: scores by split, seconds, parameters. ``confusion``: (K, K) counts, true by predicted."""

    predictor: "Predictor"
    data: Data
    history: History
    metrics: dict[str, Any]
    confusion: Any | None


def classify(recipe: Recipe) -> Run:
    """Train a classifier; the target is one of a few classes, whatever its values look like."""
    return train(replace(recipe, task="classes"))


def regress(recipe: Recipe) -> Run:
    """Train a model that predicts a number."""
    return train(replace(recipe, task="numbers"))


def train(recipe: Recipe) -> Run:
    """Train a classifier or a regressor, as the target column says (or ``recipe.task``).

    Raises ValueError, naming file, row and column, for anything wrong with the manifest; see ``load_data`` and ``fit``.
    """
    if recipe.fusion not in FUSIONS:
        raise ValueError(f"fusion is {recipe.fusion!r}, expected one of {sorted(FUSIONS)}")
    distributed.join(recipe.device)
    log = recipe.log if distributed.rank() == 0 else lambda line: None
    if recipe.out is not None and checkpoint.exists(recipe.out) and not recipe.resume:
        raise ValueError(f"{recipe.out} already holds a run: resume it (resume=True, --resume), or choose another folder")
    manifest = read_manifest(recipe.manifest, recipe.target, recipe.columns, recipe.group, recipe.use, recipe.allow_outside)
    data = load_data(manifest, batch_size=BATCH, seed=recipe.seed, augment=recipe.augment, task=recipe.task, on_error=recipe.on_error)
    for line in data.summary + [f"skipped: {problem}" for problem in data.skipped]:
        log(line)
    spec = plan(data, recipe)
    epochs = recipe.epochs or spec["epochs"]
    log(f"plan: {spec['why']}" if recipe.epochs is None else f"plan: {epochs} epochs, as asked")
    torch.manual_seed(recipe.seed)
    model = build(spec)
    config = TrainConfig(epochs=epochs, lr=spec["lr"], patience=max(8, epochs // 3), seed=recipe.seed, device=recipe.device,
                         precision=recipe.precision, distributed=recipe.distributed, tensorboard=recipe.tensorboard)
    extra = {"spec": spec, "preprocessing": data.preprocessing.state(),
             "rows": {name: loader.samples for name, loader in data.loaders.items()}}
    task = "numbers" if data.counts is None else "classes"
    history = fit(model, data.loaders["train"], data.loaders.get("val"), config, SCORES[task], recipe.out, recipe.resume, extra)
    predictor = Predictor(model, data.preprocessing, recipe.device)
    scores = {name: predictor.score(loader) for name, loader in data.loaders.items() if name != "train"}
    seconds = sum(row["seconds"] for row in history)
    parameters = sum(p.numel() for p in model.parameters())
    last = data.loaders.get("test") or data.loaders.get("val")
    table = None if task == "numbers" or last is None else metrics.confusion(*collect(model, last, recipe.device)[:2])
    return Run(predictor, data, history, scores | {"seconds": round(seconds, 1), "parameters": parameters}, table)


def plan(data: Data, recipe: Recipe) -> dict[str, Any]:
    """The size of the model and the number of epochs, from rows and senses: plain numbers from which ``build`` makes the model.

    Larger pictures get fewer channels and more stages. The epochs share out a fixed amount of arithmetic, ``BUDGET``
    multiplications of forward passes: about three minutes of one core.
    """
    train, fitted = data.loaders["train"], data.preprocessing
    encoders, work = {}, 0.0
    for name, sense in fitted.senses.items():
        if sense.kind == "image":
            size = fitted.sizes[name]
            encoders[name] = {"kind": "image", "width": WIDTHS[size], "stages": int(math.log2(size / 4))}
            work += 9 * size**2 * WIDTHS[size] * (3 + WIDTHS[size] * (encoders[name]["stages"] - 1) / 2)
        elif sense.kind == "audio":
            seconds = float(train.batches.stores[name].row_lengths(train.batches.rows).clip(max=WINDOW).mean()) / RATE
            encoders[name] = {"kind": "audio", "width": 16, "stages": 3}
            work += 9 * 64 * 100 * seconds * 16 * (1 + 16)
        else:
            encoders[name] = {"kind": "text", "vocab_size": len(fitted.vocabularies[name])}
            work += 20 * 6 * DIM**2
    epochs = int(min(MOST_EPOCHS, max(5, BUDGET / work / max(1, train.samples))))
    why = (f"{epochs} epochs over {train.samples:,} rows of {work / 1e6:.0f} million multiplications each "
           f"(about three minutes of one core, but 5 to {MOST_EPOCHS} epochs)")
    spec = {"encoders": encoders, "fusion": recipe.fusion, "dim": DIM, "epochs": epochs, "lr": LR, "why": why}
    if data.counts is None:
        return spec | {"task": "numbers", "mean": fitted.target.mean, "std": fitted.target.std}
    return spec | {"task": "classes", "prior": data.counts, "weight": class_weights(data.counts)}


def class_weights(counts: Sequence[int]) -> list[float]:
    """A weight per class for the loss: 1 where no class has over 1.5 times the rows of another, else rows / (K * rows of the class)."""
    if max(counts) <= 1.5 * min(counts):
        return [1.0] * len(counts)
    return [sum(counts) / len(counts) / count for count in counts]


def build(spec: dict[str, Any]) -> Model:
    """The model that a ``plan`` describes, with fresh weights."""
    dim, encoders = spec["dim"], {}
    for name, part in spec["encoders"].items():
        if part["kind"] == "image":
            encoders[name] = ConvEncoder(dim, width=part["width"], stages=part["stages"], dropout=DROPOUT)
        elif part["kind"] == "audio":
            encoders[name] = AudioConvEncoder(dim, width=part["width"], stages=part["stages"], dropout=DROPOUT)
        else:
            encoders[name] = RecurrentEncoder(dim, part["vocab_size"], dropout=DROPOUT)
    backbone = Backbone(encoders, FUSIONS[spec["fusion"]](dim, list(encoders)))
    if spec["task"] == "numbers":
        return Model(backbone, RegressHead(dim, spec["mean"], spec["std"]))
    return Model(backbone, ClassifyHead(dim, len(spec["prior"]), torch.tensor(spec["prior"]), torch.tensor(spec["weight"])))


class Predictor:
    """A trained model together with the preprocessing it was trained with."""

    def __init__(self, model: Model, preprocessing: Preprocessing, device: str = "auto"):
        self.model, self.preprocessing, self.device = model, preprocessing, device
        self.classes = preprocessing.target.classes

    def predict(self, **senses: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """One sample, or a list per sense for many: predict(image="cat.png"), predict(image=[a, b], text=["it purrs", None]).

        Pictures: path, PIL image or array. Sound: path, samples at 16 kHz, or (samples, rate). A sense left out, None or a
        blank text is missing. -> a dict per sample: "class" and "probabilities" by class name, or "value"; "senses" that were
        there. Without any sense, the shares of the training rows answer. Raises ValueError naming sample and sense.
        """
        lengths = {len(value) for value in senses.values() if isinstance(value, list)}
        if not lengths:
            return self._answer([senses])[0]
        if len(lengths) > 1 or not all(isinstance(value, list) or value is None for value in senses.values()):
            given = {name: f"list of {len(v)}" if isinstance(v, list) else type(v).__name__ for name, v in senses.items()}
            raise ValueError(f"got {given}: give either one sample, or for every sense a list, all of one length, with None where it "
                             "is missing")
        samples = [{name: value[i] for name, value in senses.items() if value is not None} for i in range(lengths.pop())]
        return [answer for start in range(0, len(samples), BATCH) for answer in self._answer(samples[start:start + BATCH])]

    def predict_manifest(self, manifest: Any, allow_outside: bool = False) -> list[dict[str, Any]]:
        """Every row of a manifest (CSV or DataFrame), in order; its target and split, if any, are not read."""
        rows = read_manifest(manifest, None, self._columns(), allow_outside=allow_outside, partial=True)
        rows = replace(rows, split=["all"] * len(rows))
        loader = load_data(rows, self.preprocessing, batch_size=BATCH).loaders["all"]
        stores, every = loader.batches.stores, np.arange(len(rows))
        return self._answers(collect(self.model, loader, self.device)[0], {name: stores[name].row_present(every) for name in stores})

    def _columns(self) -> dict[str, str]:
        """The columns of training, by kind."""
        kinds = {sense.kind for sense in self.preprocessing.senses.values()}
        return {kind: ",".join(sense.column for sense in self.preprocessing.senses.values() if sense.kind == kind) for kind in kinds}

    def evaluate(self, manifest: Any, split: str = "test", on_error: str = "raise", allow_outside: bool = False) -> dict[str, Any]:
        """Scores on one split of a manifest that has this model's columns."""
        rows = read_manifest(manifest, self.preprocessing.target_name, self._columns(), allow_outside=allow_outside)
        data = load_data(rows, self.preprocessing, splits=[split], batch_size=BATCH, on_error=on_error, augment=None)
        return self.score(data.loaders[split])

    def score(self, loader: Loader) -> dict[str, Any]:
        """Loss, scores and how many rows there were, and how many of them without any sense (they get the training prior)."""
        task = "numbers" if self.classes is None else "classes"
        rows = np.unique(loader.batches.rows)
        absent = int((~has_sense(loader.batches.stores, rows)).sum())
        return evaluate(self.model, loader, SCORES[task], self.device) | {"rows": len(rows), "without_senses": absent}

    def _answer(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        batch = self.preprocessing.batch(samples)
        first = torch.cat([torch.tensor([True]), batch["row"].diff() > 0])          # of the windows of each row
        there = {name: batch[f"{name}_mask"].any(dim=1)[first].numpy() for name in self.preprocessing.senses}
        return self._answers(collect(self.model, [batch], self.device)[0], there)

    def _answers(self, logits: Tensor, there: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """Logits (N, K) or (N,) and, by sense, in which samples it is there (N,) -> a dict per sample."""
        found = []
        for i, row in enumerate(logits):
            if self.classes is None:
                answer: dict[str, Any] = {"value": float(row)}
            else:
                answer = {"class": self.classes[int(row.argmax())], "probabilities": dict(zip(self.classes, row.softmax(dim=-1).tolist()))}
            found.append(answer | {"senses": [name for name in there if there[name][i]]})
        return found


def load(folder: str | Path, device: str = "auto") -> Predictor:
    """The model that ``train`` saved in ``folder``, with its best weights and its preprocessing, ready to predict.

    Raises ValueError when the folder has no checkpoint, or one that is damaged or of another kind.
    """
    state = checkpoint.load(folder)
    extra = state["extra"]
    model = build(extra["spec"])
    model.load_state_dict(state["best"])
    return Predictor(model.eval(), Preprocessing.from_state(extra["preprocessing"]), device)
