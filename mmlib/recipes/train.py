"""A Recipe -> a trained model, its data, its history and its scores."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mmlib.data import Data, Manifest
from mmlib.data.splits import choose_splits
from mmlib.data.trained import remember
from mmlib.recipes.plan import FUSIONS, build, decided
from mmlib.recipes.predictor import SCORES, Predictor
from mmlib.recipes.recipe import Recipe
from mmlib.recipes.start import Start
from mmlib.train import checkpoint, distributed
from mmlib.train.config import TrainConfig
from mmlib.train.history import History
from mmlib.train.log import summary_writer
from mmlib.train.loop import fit


@dataclass(frozen=True)
class Run:
    """What training returns.

    ``metrics`` has the scores by split, the number of epochs and of the best one, seconds and
    parameters. ``confusion`` is (K, K) counts, true by predicted, of the test rows (of the val rows
    where there are none); None for a regression. ``classify`` has an example.

    >>> [field for field in Run.__dataclass_fields__]
    ['predictor', 'data', 'history', 'metrics', 'confusion']
    """

    predictor: Predictor
    data: Data
    history: History
    metrics: dict[str, Any]
    confusion: Any | None


def classify(recipe: Recipe) -> Run:
    """Train a classifier; the target is one of a few classes, whatever its values look like.

    >>> import pandas
    >>> texts = [f"{word} {i}" for i in range(24) for word in ("good", "bad")]
    >>> rows = pandas.DataFrame({"text": texts, "label": [text.split()[0] for text in texts]})
    >>> quiet = {"log": lambda line: None, "progress": False, "device": "cpu"}
    >>> run = classify(Recipe(rows, epochs=5, **quiet))
    >>> run.metrics["test"]["accuracy"]
    1.0
    >>> run.predictor.predict(text="a good one")["class"]
    'good'
    """
    return train(replace(recipe, task="classification"))


def regress(recipe: Recipe) -> Run:
    """Train a model that predicts a number.

    >>> import pandas
    >>> texts = [f"{word} {i}" for i in range(24) for word in ("good", "bad")]
    >>> price = [30.5 if text.startswith("good") else 10.5 for text in texts]
    >>> quiet = {"log": lambda line: None, "progress": False, "device": "cpu"}
    >>> rows = pandas.DataFrame({"text": texts, "price": price})
    >>> run = regress(Recipe(rows, target="price", epochs=5, **quiet))
    >>> 25 < run.predictor.predict(text="good 3")["value"] < 35
    True
    """
    return train(replace(recipe, task="regression"))


def train(recipe: Recipe) -> Run:
    """Train a model for classification, regression or labels, as ``recipe.task`` or the cells say.

    Raises ValueError, naming file, row and column, for anything wrong with the manifest; see
    ``load_data`` and ``fit``. Without ``resume`` the folder ``out`` must be new, or empty: nothing
    there is overwritten. A run that is resumed keeps its ``start``, which prepares its data.
    """
    if recipe.fusion not in FUSIONS:
        raise ValueError(f"fusion is {recipe.fusion!r}, expected one of {sorted(FUSIONS)}")
    if recipe.tensorboard:
        summary_writer()  # fails now, before any file is read, where TensorBoard is not installed
    distributed.join(recipe.device)
    out = recipe.out if distributed.rank() == 0 else None
    with checkpoint.locked(out):  # from this check of the folder until the last checkpoint
        if out is not None and not (recipe.resume and checkpoint.exists(out)):
            checkpoint.check_free(out)
        return _train(recipe)


def _train(recipe: Recipe) -> Run:
    log = recipe.log if distributed.rank() == 0 else lambda line: None
    manifest = recipe.read()
    log(f"reading {manifest.name}: {len(manifest):,} rows")
    start = None if recipe.start is None else Start.read(recipe.start, manifest)
    data = recipe.load(manifest, fitted=None if start is None else start.preprocessing)
    for line in data.summary + [f"skipped: {problem}" for problem in data.skipped]:
        log(line)
    spec = recipe.plan(data)
    epochs = recipe.epochs or spec["epochs"]
    torch.manual_seed(recipe.seed)
    model, config = build(spec), settings(recipe, epochs)
    if start is not None:
        start.give(model, spec)
    log(f"plan: {decided(model, data, spec, epochs, distributed.join(recipe.device))}")
    extra = _to_remember(spec, data, manifest, start)
    train, val = data.loaders["train"], data.loaders.get("val")
    scores = SCORES[spec["task"]]
    history = fit(model, train, val, config, scores, recipe.out, recipe.resume, extra)
    predictor = Predictor(
        model, data.preprocessing, recipe.device, recipe.precision, extra["trained"]
    )
    judged = {name: predictor.judge(part) for name, part in data.loaders.items() if name != "train"}
    numbers = {
        "best_epoch": history.best_epoch(config.monitor) or len(history),
        "epochs": len(history),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    table = (judged.get("test") or judged.get("val") or (None, None))[1]
    by_split = {name: score for name, (score, _) in judged.items()}
    return Run(predictor, data, history, by_split | numbers, table)


def _to_remember(
    spec: dict[str, Any], data: Data, manifest: Manifest, start: Start | None
) -> dict[str, Any]:
    """What the checkpoint holds beside the weights.

    A resumed run must find it as it was; test rows may change.
    """
    rows: dict[str, list[int]] = {
        name: np.unique(data.loaders[name].batches.rows).tolist()
        for name in ("train", "val")
        if name in data.loaders
    }
    trained = remember(manifest, manifest.modalities, choose_splits(manifest), rows)
    return {
        "spec": spec,
        "preprocessing": data.preprocessing.state(),
        "manifest": {f"{name} rows": manifest.checksums(places) for name, places in rows.items()},
        "trained": trained if start is None else start.remember(trained),
    }


def settings(recipe: Recipe, epochs: int) -> TrainConfig:
    """How a recipe is trained for so many epochs."""
    return TrainConfig(
        epochs=epochs,
        lr=recipe.lr,
        patience=max(8, epochs // 3),
        seed=recipe.seed,
        device=recipe.device,
        precision=recipe.precision,
        distributed=recipe.distributed,
        tensorboard=recipe.tensorboard,
        progress=recipe.progress,
    )
