"""Files, arrays or a manifest -> answers and scores of a trained model."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib import metrics
from mmlib.core import Batch, Output, from_pooled, inputs_of
from mmlib.data import Loader, Manifest, Preprocessing, load_data, read_manifest
from mmlib.data.loaders import has_modality
from mmlib.data.splits import choose_splits, is_drawn
from mmlib.data.trained import check_untrained
from mmlib.machine import explaining_out_of_memory
from mmlib.models import Backbone, Model
from mmlib.recipes.baseline import error_and_baseline
from mmlib.train import distributed
from mmlib.train.evaluate import autocast, collect, evaluate, in_eval_mode, to_device
from mmlib.train.layout import store_by_pixel
from mmlib.train.windows import one_per_row

BATCH = 32
SCORES = {
    "classification": {
        "accuracy": metrics.accuracy,
        "balanced_accuracy": metrics.balanced_accuracy,
        "macro_f1": metrics.macro_f1,
        "log_loss": metrics.log_loss,
    },
    "regression": {"mean_absolute_error": metrics.mean_absolute_error, "r2": metrics.r2},
    "labels": {
        "subset_accuracy": metrics.subset_accuracy,
        "macro_f1": metrics.labels_macro_f1,
        "auroc": metrics.labels_auroc,
    },
}


class Predictor:
    """A trained model together with the preprocessing it was trained with.

    ``load`` and ``train`` make one. ``trained`` are checksums of the rows it was trained on, from
    ``mmlib.data.trained.remember``: with them ``evaluate`` refuses to score these rows. None: they
    are not known.

    >>> import pandas
    >>> from mmlib import Recipe, classify
    >>> texts = [f"{word} {i}" for i in range(24) for word in ("good", "bad")]
    >>> rows = pandas.DataFrame({"text": texts, "label": [text.split()[0] for text in texts]})
    >>> quiet = {"log": lambda line: None, "progress": False, "device": "cpu"}
    >>> predictor = classify(Recipe(rows, epochs=5, **quiet)).predictor
    >>> answer = predictor.predict(text="a good one")
    >>> answer["class"], answer["modalities"]
    ('good', ['text'])
    >>> [answer["class"] for answer in predictor.predict(text=["bad 7", "good 7"])]
    ['bad', 'good']
    """

    def __init__(
        self,
        model: Model,
        preprocessing: Preprocessing,
        device: str = "auto",
        precision: str = "auto",
        trained: dict[str, str] | None = None,
    ):
        self.model, self.preprocessing = model.to(distributed.join(device)), preprocessing
        store_by_pixel(model)
        self.device, self.precision, self.trained = device, precision, trained
        self.classes, self.labels = preprocessing.target.classes, preprocessing.target.labels

    def predict(self, **modalities: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """The answer to one sample, or to many, given as a list per modality.

        predict(image="cat.png", text="it purrs"), predict(image=[a, b], text=["it purrs", None]).
        Images: path, PIL image or array. Audio: path, samples at 16 kHz, or (samples, rate). Table:
        a dict by column. A modality left out, None or a blank text is missing. A modality also goes
        by the name of its column in the training manifest. -> a dict per sample: "class" and
        "probabilities" by class name; or "labels", those of at least 1/2, and "probabilities" by
        label; or "value"; and "modalities" that were there. Without any modality, the shares of the
        training rows answer. Raises ValueError naming sample and modality.
        """
        if not any(isinstance(value, list) for value in modalities.values()):
            return self.answers([modalities])[0]
        return self.answers(_samples(modalities))

    def answers(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A dict per sample, see ``predict``; each sample has its modalities by name."""
        return [
            answer
            for start in range(0, len(samples), BATCH)
            for answer in self._answer(samples[start : start + BATCH])
        ]

    def predict_manifest(
        self, manifest: Any, allow_outside: bool = False, on_error: str = "raise"
    ) -> list[dict[str, Any]]:
        """Every row of a manifest (CSV or DataFrame), in order; its target and split are not read.

        ``on_error`` "raise" reports all bad files in one ManifestErrors; "skip" answers such a row
        with {"error": reason}, so that there is an answer for each row.
        """
        rows = read_manifest(
            manifest, None, self._columns(), allow_outside=allow_outside, partial=True
        )
        rows = replace(rows, split=["all"] * len(rows))
        data = load_data(rows, self.preprocessing, batch_size=BATCH, on_error=on_error)
        reasons: dict[str, list[str]] = {}
        for problem in data.skipped:
            reasons.setdefault(problem.row, []).append(str(problem))
        good = [row for row, name in enumerate(rows.rows) if name not in reasons]
        answers = iter(self._answer_rows(data.loaders["all"], np.array(good)) if good else [])
        return [
            {"error": "; ".join(reasons[name])} if name in reasons else next(answers)
            for name in rows.rows
        ]

    def _answer_rows(self, loader: Loader, rows: np.ndarray) -> list[dict[str, Any]]:
        logits = collect(self.model, loader, self.device, self.precision)[0]
        stores = loader.batches.stores
        there = {name: store.row_present(rows) for name, store in stores.items()}
        return self._answers(logits, there)

    def _columns(self) -> dict[str, str]:
        """The columns of training, by kind."""
        kinds = {modality.kind for modality in self.preprocessing.modalities.values()}
        return {
            kind: ",".join(
                modality.column
                for modality in self.preprocessing.modalities.values()
                if modality.kind == kind
            )
            for kind in kinds
        }

    def evaluate(
        self,
        manifest: Any,
        split: str = "test",
        on_error: str = "raise",
        allow_outside: bool = False,
    ) -> dict[str, Any]:
        """Scores on one split of a manifest that has this model's columns; "all" is every row.

        Where the manifest does not name the split, it is drawn as in training: the file of training
        gives the scores of training, and a row that is added, moved or deleted changes no other
        row's split. Raises ValueError, naming rows, where some were trained on; where the split is
        drawn, but the file is not that of training; and where it is drawn, but ``trained`` is None.
        """
        rows = read_manifest(
            manifest, self.preprocessing.target_name, self._columns(), allow_outside=allow_outside
        )
        if split == "all" and "all" not in (rows.split or ()):
            rows = replace(rows, split=["all"] * len(rows))
        rows = self._draw_as_trained(rows, split)
        if self.trained is not None:
            names = choose_splits(rows)
            check_untrained(rows, self.preprocessing.modalities, names, self.trained, split)
        data = load_data(
            rows,
            self.preprocessing,
            splits=[split],
            batch_size=BATCH,
            on_error=on_error,
            augment=None,
        )
        return self.score(data.loaders[split])

    def _draw_as_trained(self, rows: Manifest, split: str) -> Manifest:
        """The manifest with the group and the columns from which training drew its splits."""
        fitted, drawn = self.preprocessing, is_drawn(rows, split)
        if drawn and self.trained is None:
            raise ValueError(
                f"{rows.name} does not say which rows are {split!r}, and this model has no "
                "checksums of the rows that it was trained on (an older mmlib saved it, or it was "
                "made by hand), so a drawn split could hold some of them. Give the file a column "
                "'split', or train the model again"
            )
        try:
            group = None if fitted.group is None else rows.column(fitted.group)
            for modality in fitted.split_columns if drawn and group is None else ():
                rows.column(modality.column)
        except ValueError as error:
            if drawn:
                raise ValueError(
                    f"{error}. In training, splits were drawn from this column. Add it, or a "
                    "column 'split', or score every row with split='all' (--split all)"
                ) from error
            group = None
        return replace(
            rows, group=group, group_name=fitted.group, split_columns=fitted.split_columns
        )

    def score(self, loader: Loader) -> dict[str, Any]:
        """Loss and scores, "rows", and how many of them are "without_modalities".

        Those get the training prior as their answer.
        """
        return self.judge(loader)[0]

    def judge(self, loader: Loader) -> tuple[dict[str, Any], Tensor | None]:
        """``score``, and for classes the counts (K, K), true by predicted, from one pass."""
        answers: list[tuple[Tensor, Tensor]] = []

        def keep(logits: Tensor, target: Tensor) -> float:
            answers.append((logits, target))
            return 0.0

        own = SCORES[self.preprocessing.target.task]
        scores = evaluate(self.model, loader, own | {"kept": keep}, self.device, self.precision)
        del scores["kept"]
        (logits, target), rows = answers[0], np.unique(loader.batches.rows)
        absent = int((~has_modality(loader.batches.stores, rows)).sum())
        beside = error_and_baseline(logits, target, self._blind())
        counts = {"rows": len(rows), "without_modalities": absent}
        table = None if self.classes is None else metrics.confusion(logits, target)
        return scores | beside | counts, table

    def _blind(self) -> float | Tensor:
        """The answer without any modality, see ``error_and_baseline``."""
        (answer,) = self.answers([{}])
        if self.labels is not None:
            return torch.tensor(list(answer["probabilities"].values())).logit()
        if self.classes is None:
            return float(answer["value"]) - self.preprocessing.target.centre
        return self.classes.index(answer["class"])

    def _answer(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        batch = self.preprocessing.batch(samples)
        begins = torch.cat([torch.tensor([True]), batch["row"].diff() > 0])  # a row's first window
        there = {
            name: batch[f"{name}_mask"].any(dim=1)[begins].numpy()
            for name in self.preprocessing.modalities
        }
        absent = [name for name, rows in there.items() if not rows.any()]
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        with (
            in_eval_mode(self.model),
            explaining_out_of_memory(batch),
            autocast(device, self.precision),
        ):
            logits = forward_present(self.model, to_device(batch, device), absent).logits
        logits = logits.float().cpu()
        if len(logits) > len(samples):  # clips of several windows
            logits = one_per_row(logits, None, batch["row"], self.model.kind)[0]
        return self._answers(logits, there)

    def _answers(self, logits: Tensor, there: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """Logits (N, K) or (N,) -> a dict per sample.

        ``there`` (N,) says by modality which samples have it.
        """
        found = []
        for i, row in enumerate(logits):
            if self.labels is not None:
                named = dict(zip(self.labels, row.sigmoid().tolist(), strict=True))
                likely = [name for name, share in named.items() if share >= 0.5]
                answer: dict[str, Any] = {"labels": likely, "probabilities": named}
            elif self.classes is None:
                answer = {"value": self.preprocessing.target.centre + float(row)}
            else:
                shares = zip(self.classes, row.softmax(dim=-1).tolist(), strict=True)
                answer = {
                    "class": self.classes[int(row.argmax())],
                    "probabilities": dict(shares),
                }
            found.append(answer | {"modalities": [name for name in there if there[name][i]]})
        return found


def forward_present(model: Model, batch: Batch, absent: Collection[str]) -> Output:
    """``model(batch)`` without gradient, where no row has the modalities ``absent``.

    Their encoders are not run: by the contract they would give nothing but zeros. They do run where
    something watches the model, a hook or ``recording`` (which also gets tensors that may be used
    in training), and where a class of your own may use them in another way.
    """
    if _is_watched(model):
        with torch.no_grad():
            return model(batch)
    with torch.inference_mode():
        encoders = dict(model.backbone.encoders.items()) if type(model) is Model else {}
        present = [name for name in encoders if name not in absent]
        if not 0 < len(present) < len(encoders) or type(model.backbone) is not Backbone:
            return model(batch)
        features = {name: encoders[name](*inputs_of(batch, name)) for name in present}
        pooled = features[present[0]].pooled  # (B, D)
        nothing = from_pooled(torch.zeros_like(pooled), torch.zeros_like(pooled[:, 0]).bool())
        return model.head(model.backbone.fusion(dict.fromkeys(encoders, nothing) | features), batch)


def _is_watched(model: Model) -> bool:
    return any(
        part._forward_hooks or part._forward_pre_hooks or getattr(part, "record", False)
        for part in model.modules()
    )


def _samples(modalities: dict[str, Any]) -> list[dict[str, Any]]:
    """Lists by modality -> a dict per sample, without what is None."""
    given = {name: value for name, value in modalities.items() if value is not None}
    lists = [value for value in given.values() if isinstance(value, list)]
    if len(lists) < len(given) or len({len(value) for value in lists}) > 1:
        kinds = {
            name: f"list of {len(value)}" if isinstance(value, list) else type(value).__name__
            for name, value in modalities.items()
        }
        raise ValueError(
            f"got {kinds}: give either one sample, or for every modality a list, all of one "
            "length, with None where it is missing"
        )
    return [{name: value[i] for name, value in given.items()} for i in range(len(lists[0]))]
