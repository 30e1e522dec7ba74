"""Classical baselines: what needs no network, in seconds. A trained model should beat them.

Logistic regression (ridge regression for numbers) on the edges and colours of images, on statistics
of the cepstrum of sounds and on TF-IDF of texts; and the average of their answers.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib import metrics
from mmlib.data import Data
from mmlib.data.audio import WINDOW
from mmlib.data.store import Clips, Columns, Images, Store, Texts
from mmlib.recipes.baseline import error_and_baseline
from mmlib.report.features import audio_features, image_features, text_features
from mmlib.report.measure import average

METHODS = {
    "image": "HOG and colour",
    "audio": "MFCC statistics",
    "text": "TF-IDF",
    "table": "the columns",
}
AVERAGE = "average"
MOST = 2000  # training rows of a class
WINDOWS = 10  # of a long sound the first so many are read
COMPONENTS = 200  # principal components that are kept of more numbers
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # of the evidence against the regularisation
SURE = 1e-4  # the share of the prior in each answer, so that no class has a chance of zero


def classical(data: Data) -> dict[str, dict[str, Tensor]]:
    """What classical baselines answer, by modality and split; "average" joins the modalities.

    The answers are logits (N, K), or numbers (N,), of the split's rows in manifest order, each row
    once. A row without the modality is answered by the training rows: by the shares of their
    classes, or their mean. At most ``MOST`` training rows of a class are read (the same each time).
    The strength of the regularisation is the one that suits the validation rows best. A modality
    that no training rows of two classes have is left out; labels are not answered at all.

    >>> import pandas, mmlib
    >>> texts = [f"{word} {i}" for i in range(24) for word in ("good", "bad")]
    >>> table = pandas.DataFrame({"text": texts, "label": [text.split()[0] for text in texts]})
    >>> answers = classical(mmlib.load_data(mmlib.read_manifest(table, target="label")))
    >>> list(answers), answers["text"]["test"].shape[1]
    (['text'], 2)
    """
    if data.preprocessing.target.task == "labels":
        return {}
    found = {name: _answers(data, name) for name in sorted(data.preprocessing.modalities)}
    answers = {name: answer for name, answer in found.items() if answer}
    if len(answers) > 1:
        answers[AVERAGE] = {split: _average(data, split, answers) for split in _asked(data)}
    return answers


def scores(data: Data, answers: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Any]]:
    """Accuracy and its standard error (or mean absolute error) by split and baseline, best first.

    >>> import pandas, mmlib
    >>> texts = [f"{word} {i}" for i in range(24) for word in ("good", "bad")]
    >>> table = pandas.DataFrame({"text": texts, "label": [text.split()[0] for text in texts]})
    >>> data = mmlib.load_data(mmlib.read_manifest(table, target="label"))
    >>> scores(data, classical(data))["test"]["text"]["accuracy"]
    1.0
    """
    if not answers:
        return {}
    blind, found = _blind(data), {}
    usual = float(blind) if blind.ndim == 0 else int(blind.argmax())
    name, better = ("mean_absolute_error", -1) if blind.ndim == 0 else ("accuracy", 1)
    measure = getattr(metrics, name)
    for split in _asked(data):
        target = torch.from_numpy(_target(data)[_rows(data, split)])
        each = {}
        for key, answer in answers.items():
            modality = data.preprocessing.modalities.get(key)
            beside = error_and_baseline(answer[split], target, usual)
            each[key] = {
                "method": "the mean of the answers" if modality is None else METHODS[modality.kind],
                name: measure(answer[split], target),
                f"{name}_error": beside[f"{name}_error"],
            }
        found[split] = dict(sorted(each.items(), key=lambda item: -better * item[1][name]))
    return found


def _asked(data: Data) -> list[str]:
    return [split for split in data.loaders if split != "train"]


def _rows(data: Data, split: str) -> np.ndarray:
    """The manifest rows of a split, each once."""
    return np.unique(data.loaders[split].batches.rows)


def _blind(data: Data) -> Tensor:
    """The answer without any modality: log shares of the classes (K,), or the training mean."""
    if data.counts is None:
        return torch.tensor(float(_target(data)[_rows(data, "train")].mean()))
    counts = torch.tensor(data.counts, dtype=torch.float64)
    return (counts / counts.sum()).log()


def _target(data: Data) -> np.ndarray:
    """(rows,) classes or numbers, by manifest row."""
    target = data.loaders["train"].batches.target
    assert target is not None  # training rows have one
    return target.numpy()


def _answers(data: Data, name: str) -> dict[str, Tensor]:
    """The answers of one modality by split; empty where it cannot be learned from."""
    store, target = data.loaders["train"].batches.stores[name], _target(data)
    rows = _rows(data, "train")
    rows = _drawn(rows[store.row_present(rows)], None if data.counts is None else target)
    if len(np.unique(target[rows])) < 2:
        return {}
    asked = {split: _rows(data, split) for split in _asked(data)}
    there = {split: part[store.row_present(part)] for split, part in asked.items()}
    there = {split: part for split, part in there.items() if len(part)}
    train, others = _features(store, rows, list(there.values()))
    features = dict(zip(there, others, strict=True))
    known = target[there["val"]] if "val" in there else None
    learner = _learned(train, target[rows], features.get("val"), known)
    blind, answers = _blind(data), {}
    for split, part in asked.items():
        answers[split] = blind.expand(len(part), *blind.shape).clone()
        if split in there:
            places = torch.from_numpy(np.isin(part, there[split]))
            answers[split][places] = _answer(learner, features[split], blind)
    return answers


def _drawn(rows: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    """At most ``MOST`` of the rows of each class; of numbers, five times as many in all."""
    random = np.random.default_rng(0)
    if classes is None:
        return np.sort(random.permutation(rows)[: 5 * MOST])
    each = [rows[classes[rows] == one] for one in np.unique(classes[rows])]
    return np.sort(np.concatenate([random.permutation(one)[:MOST] for one in each]))


def _features(store: Store, rows: np.ndarray, others: list[np.ndarray]) -> tuple[Any, list[Any]]:
    """What is learned from, of ``rows`` and of each of the ``others``; fitted on ``rows`` alone."""
    read: Any = _ids if isinstance(store, Texts) else _numbers
    scaling: Any = text_features if isinstance(store, Texts) else _scaling
    train = read(store, rows)
    fitted = scaling(train)
    return fitted.transform(train), [fitted.transform(read(store, part)) for part in others]


def _scaling(train: np.ndarray) -> Any:
    """To numbers of deviation 1 over the training rows; of many, to their principal components."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps: list[Any] = [StandardScaler()]
    if min(train.shape) > COMPONENTS:
        steps.append(PCA(COMPONENTS, svd_solver="randomized", random_state=0))
    return make_pipeline(*steps).fit(train)


def _numbers(store: Store, rows: np.ndarray) -> np.ndarray:
    """(rows, numbers) of images, sounds or tables."""
    if isinstance(store, Columns):
        return _columns(store, rows)
    if isinstance(store, Images):
        parts = [rows[start : start + 256] for start in range(0, len(rows), 256)]
        return np.concatenate([image_features(store.fetch(part)) for part in parts])
    assert isinstance(store, Clips)
    clips = (store.fetch(rows[i : i + 1])[0][: WINDOWS * WINDOW] for i in range(len(rows)))
    return np.stack([audio_features(clip.float() / 32767) for clip in clips])


def _columns(store: Columns, rows: np.ndarray) -> np.ndarray:
    """Numbers (0 where missing), what is there, and a flag for each value of a category."""
    there, numbers = store.mask[rows], store.numbers[rows]
    flags = [ids[rows, None] == np.arange(1, ids.max() + 1) for ids in store.categories.T]
    known = np.where(there[:, : numbers.shape[1]], numbers, 0)
    return np.concatenate([known, there, *flags], axis=1).astype(np.float32)


def _ids(store: Store, rows: np.ndarray) -> list[np.ndarray]:
    """The token ids of texts."""
    assert isinstance(store, Texts)
    return [store.flat[store.offsets[row] : store.offsets[row + 1]] for row in rows]


def _learned(train: Any, target: np.ndarray, checked: Any, known: np.ndarray | None) -> Any:
    """The learner whose strength suits the validation rows best; without them the middle one."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if target.dtype.kind == "f":
            learners = [Ridge(alpha=1 / strength).fit(train, target) for strength in STRENGTHS]
        else:
            learners = [
                LogisticRegression(C=strength, max_iter=300).fit(train, target)
                for strength in STRENGTHS
            ]
    if known is None:
        return learners[len(learners) // 2]
    return min(learners, key=lambda learner: _loss(learner, checked, known))


def _loss(learner: Any, features: Any, target: np.ndarray) -> float:
    """The mean squared error, or the log loss of the rows whose class the learner knows."""
    if target.dtype.kind == "f":
        return float(((learner.predict(features) - target) ** 2).mean())
    known = np.isin(target, learner.classes_)
    places = np.searchsorted(learner.classes_, target[known])
    chances = learner.predict_proba(features)[known][np.arange(len(places)), places]
    return -float(np.log(chances.clip(min=1e-12)).mean()) if len(places) else 0.0


def _answer(learner: Any, features: Any, blind: Tensor) -> Tensor:
    """Logits (N, K), or numbers (N,); a class that the learner never saw has a small chance."""
    if blind.ndim == 0:
        return torch.from_numpy(learner.predict(features)).to(blind.dtype)
    shares = torch.zeros(features.shape[0], len(blind), dtype=torch.float64)
    shares[:, torch.from_numpy(learner.classes_)] = torch.from_numpy(
        learner.predict_proba(features).astype(np.float64)
    )
    return ((1 - SURE) * shares + SURE * blind.exp()).log()


def _average(data: Data, split: str, answers: dict[str, dict[str, Tensor]]) -> Tensor:
    """The mean of the answers of the modalities that a row has: of probabilities, or of numbers."""
    stores, rows = data.loaders[split].batches.stores, _rows(data, split)
    there = torch.from_numpy(np.stack([stores[name].row_present(rows) for name in answers]))
    each, blind = [answer[split] for answer in answers.values()], _blind(data)
    if data.counts is not None:
        return average([logits[None] for logits in each], there, blind)[0]
    mean = (torch.stack(each) * there).sum(dim=0) / there.sum(dim=0).clamp(min=1)
    return torch.where(there.any(dim=0), mean, blind).float()
