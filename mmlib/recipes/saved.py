"""The folder of a finished run -> a Predictor, checked before it is used."""

from pathlib import Path
from typing import Any

import numpy as np

from mmlib.data import Preprocessing
from mmlib.recipes.plan import build
from mmlib.recipes.predictor import Predictor
from mmlib.train import checkpoint
from mmlib.train.content import finite, misfit, whole


def load(folder: str | Path, device: str = "auto") -> Predictor:
    """The model that ``train`` saved in ``folder``, ready to predict.

    It has its best weights and its preprocessing. Raises ValueError when the folder has no
    checkpoint, or one that is damaged or of another kind.

    >>> import tempfile, pandas
    >>> from mmlib import Recipe, classify
    >>> texts = [f"{word} {i}" for i in range(24) for word in ("good", "bad")]
    >>> rows = pandas.DataFrame({"text": texts, "label": [text.split()[0] for text in texts]})
    >>> quiet = {"log": lambda line: None, "progress": False, "device": "cpu"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = classify(Recipe(rows, out=folder + "/run", epochs=5, **quiet))
    ...     load(folder + "/run", "cpu").predict(text="bad weather")["class"]
    'bad'
    """
    state = checkpoint.load(folder, needed=("best", "extra", "config"))
    extra = state["extra"]
    broken = [name for name, value in state["best"].items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{folder}: weight {broken[0]!r} is not finite, so the answers mean nothing: train "
            "again"
        )
    if not {"spec", "preprocessing"} <= set(extra):
        raise ValueError(
            f"{folder} was made by fit(..., out=), which keeps the weights, not what the model is "
            "built of: build the model as it was, and use mmlib.load_weights(model, folder)"
        )
    try:
        spec, fitted = extra["spec"], Preprocessing.from_state(extra["preprocessing"])
        _check_fit(spec, fitted)
        model = build(spec)
        checkpoint.set_weights(model, state["best"])
        precision = state["config"].get("precision", "auto")
        predictor = Predictor(model.eval(), fitted, device, precision, extra.get("trained"))
        _try_out(predictor)
    except Exception as error:  # what something else wrote may fail in any way
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{folder}: the model cannot be built from its checkpoint ({reason}): train again"
        ) from error
    return predictor


def _few(value: Any) -> bool:
    """a whole number up to 10,000"""
    return whole(value) and value <= 10_000


def _sizes(value: Any) -> bool:
    """a whole number up to 30,000, or a list of them"""
    values = value if isinstance(value, list) else [value]  # a vocabulary has up to 20,000 words
    return all(whole(one) and one <= 30_000 for one in values)


SPEC = {
    "encoders": {str: {"kind": str, str: _sizes}},
    "fusion": str,
    "dim": _few,
    "task": str,
    "dropout": finite,
    str: object,
}


def _check_fit(spec: dict[str, Any], fitted: Preprocessing) -> None:
    """Raise ValueError where model and preprocessing do not fit; before the model takes memory."""
    if found := misfit(spec, SPEC, "spec"):
        raise ValueError(found)
    parts, names = spec["encoders"], fitted.target.labels or fitted.target.classes
    texts = {name: part for name, part in parts.items() if part["kind"] == "text"}
    tables = {
        name: (part["numbers"], part["categories"])
        for name, part in parts.items()
        if part["kind"] == "table"
    }
    of_model = {
        "modalities": {name: part["kind"] for name, part in parts.items()},
        "vocabulary sizes": {name: part.get("vocab_size") for name, part in texts.items()},
        "columns of tables": tables,
        "task": spec["task"],
        "number of classes": None if spec["task"] == "regression" else len(spec["prior"]),
    }
    of_data = {
        "modalities": {name: modality.kind for name, modality in fitted.modalities.items()},
        "vocabulary sizes": {name: len(words) for name, words in fitted.vocabularies.items()},
        "columns of tables": {
            name: (len(table.numbers), [len(known) for known in table.categories.values()])
            for name, table in fitted.tables.items()
        },
        "task": fitted.target.task,
        "number of classes": None if names is None else len(set(names)),
    }
    for what, value in of_model.items():
        if value != of_data[what]:
            raise ValueError(f"the model has the {what} {value}, its preprocessing {of_data[what]}")


def sample(fitted: Preprocessing) -> dict[str, Any]:
    """A sample that has every modality: a picture of noise, two words, a second of noise."""
    draw = np.random.default_rng(0)
    image, audio = draw.integers(0, 256, (64, 64), np.uint8), draw.uniform(-0.5, 0.5, 16_000)
    values: dict[str, Any] = {"image": image, "text": "a b", "audio": audio}
    tables = {
        name: dict.fromkeys(table.numbers, 0)
        | {column: known[0] for column, known in table.categories.items()}
        for name, table in fitted.tables.items()
    }
    return {
        name: tables[name] if name in tables else values[modality.kind]
        for name, modality in fitted.modalities.items()
    }


def _try_out(predictor: Predictor) -> None:
    """Ask about a sample that has every modality: what is wrong shows now, not at the first use."""
    (answer,) = predictor.answers([sample(predictor.preprocessing)])
    numbers = [answer["value"]] if "value" in answer else answer["probabilities"].values()
    if not all(map(finite, numbers)):
        raise ValueError("its answers are not finite")
