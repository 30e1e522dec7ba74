"""A Recipe -> a trained model, its data, its history and its scores."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mmlib.data import Data, load_data, read_manifest
from mmlib.data.splits import choose_splits
from mmlib.data.trained import remember
from mmlib.recipes.plan import FUSIONS, build, plan
from mmlib.recipes.predictor import SCORES, Predictor
from mmlib.recipes.recipe import Recipe
from mmlib.train import checkpoint, distributed
from mmlib.train.config import TrainConfig
from mmlib.train.history import History
from mmlib.train.log import summary_writer
from mmlib.train.loop import fit


@dataclass(frozen=True)
class Run:
    """What training returns. ``metrics``: scores by split, epochs and the best, seconds, parameters.

    ``confusion``: (K, K) counts, true by predicted.
    """

    predictor: Predictor
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

    Raises ValueError, naming file, row and column, for anything wrong with the manifest; see
    ``load_data`` and ``fit``. Without ``resume`` the folder ``out`` must be new, or empty: nothing
    there is overwritten.
    """
    if recipe.fusion not in FUSIONS:
        raise ValueError(f"fusion is {recipe.fusion!r}, expected one of {sorted(FUSIONS)}")
    if recipe.tensorboard:
        summary_writer()  # what is not installed is found before any file is read
    distributed.join(recipe.device)
    out = recipe.out if distributed.rank() == 0 else None
    with checkpoint.locked(out):  # from this look at the folder until the last checkpoint
        if out is not None and not (recipe.resume and checkpoint.exists(out)):
            checkpoint.check_free(out)
        return _train(recipe)


def _train(recipe: Recipe) -> Run:
    log = recipe.log if distributed.rank() == 0 else lambda line: None
    manifest = read_manifest(
        recipe.manifest,
        recipe.target,
        recipe.columns,
        recipe.group,
        recipe.use,
        recipe.allow_outside,
    )
    log(f"reading {manifest.name}: {len(manifest):,} rows")
    data = load_data(
        manifest,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        augment=recipe.augment,
        task=recipe.task,
        on_error=recipe.on_error,
    )
    for line in data.summary + [f"skipped: {problem}" for problem in data.skipped]:
        log(line)
    spec = plan(data, recipe.fusion, recipe.dim, recipe.lr, recipe.dropout, recipe.budget)
    epochs = recipe.epochs or spec["epochs"]
    log(f"plan: {spec['why']}" if recipe.epochs is None else f"plan: {epochs} epochs, as asked")
    torch.manual_seed(recipe.seed)
    model = build(spec)
    config = settings(recipe, epochs)
    rows: dict[str, list[int]] = {
        name: np.unique(data.loaders[name].batches.rows).tolist()
        for name in ("train", "val")
        if name in data.loaders
    }
    extra = {
        "spec": spec,
        # what a resumed run must find as it was; test rows may change
        "preprocessing": data.preprocessing.state(),
        "manifest": {f"{name} rows": manifest.checksums(places) for name, places in rows.items()},
        "trained": remember(manifest, manifest.modalities, choose_splits(manifest), rows),
    }
    task = "numbers" if data.counts is None else "classes"
    history = fit(
        model,
        data.loaders["train"],
        data.loaders.get("val"),
        config,
        SCORES[task],
        recipe.out,
        recipe.resume,
        extra,
    )
    predictor = Predictor(
        model, data.preprocessing, recipe.device, recipe.precision, extra["trained"]
    )
    judged = {name: predictor.judge(part) for name, part in data.loaders.items() if name != "train"}
    scores = {name: score for name, (score, _) in judged.items()}
    seconds = sum(row["seconds"] for row in history)
    parameters = sum(p.numel() for p in model.parameters())
    table = (judged.get("test") or judged.get("val") or (None, None))[1]
    return Run(
        predictor,
        data,
        history,
        scores
        | {
            "best_epoch": history.best_epoch(config.monitor) or len(history),
            "epochs": len(history),
            "seconds": round(seconds, 1),
            "parameters": parameters,
        },
        table,
    )


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
