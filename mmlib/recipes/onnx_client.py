"""Files, arrays and text -> answers of an exported model, with numpy and onnxruntime alone.

``mmlib.export`` puts a copy of this file beside the model: ``python m.py image=cat.png text=purrs``
Pictures need pillow, sounds soundfile and scipy; it imports neither mmlib nor torch.
"""

import json
import re
import sys
import unicodedata
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


class Client:
    """An exported model with its preprocessing, which stands in the file's metadata."""

    def __init__(self, path: str | Path):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path)
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["mmlib"])
        self.fitted, self.window = self.about["preprocessing"], self.about["window"]

    def predict(self, **modalities: Any) -> dict[str, Any]:
        """One sample -> "class" or "labels" and "probabilities", or "value"; None is missing.

        image: a file, or an array (H, W) or (H, W, C) of uint8. text: a string. audio: a file, or
        (samples, rate), or samples at 16 kHz, float -1..1; a long one is asked about in windows.
        table: {"age": 3, "colour": "red"}, or "age=3,colour=red"; other columns are missing.
        """
        if unknown := sorted(modalities.keys() - self.fitted["modalities"].keys()):
            raise ValueError(f"unknown {unknown}; this model has {list(self.fitted['modalities'])}")
        parts: dict[str, Any] = {}
        batch: dict[str, np.ndarray] = {}
        windows = 1
        for name, (kind, _) in self.fitted["modalities"].items():
            value = modalities.get(name)
            if kind == "table":
                batch |= self._table(name, value or {})
                continue
            x, present = getattr(self, f"_{kind}")(name, value), value is not None
            parts[name] = x, present and (kind != "text" or x.any())
            windows = max(windows, -(-len(x) // self.window) if kind == "audio" else 1)
        batch = {key: np.repeat(row, windows, axis=0) for key, row in batch.items()}
        for name, (x, present) in parts.items():
            batch[name] = np.stack([self._cut(x, i) for i in range(windows)])
            batch[f"{name}_mask"] = np.full((windows, batch[name].shape[-1]), present)
        given = {key: value for key, value in batch.items() if key in self.about["inputs"]}
        return self._answer(self.session.run(["logits"], given)[0].astype(np.float64))

    def _answer(self, logits: np.ndarray) -> dict[str, Any]:
        target = self.fitted["target"]
        if target.get("labels"):  # logits (windows, K)
            shares = (1 / (1 + np.exp(-logits))).mean(axis=0).tolist()
            named = dict(zip(target["labels"], shares, strict=True))
            likely = [label for label, share in named.items() if share >= 0.5]
            return {"labels": likely, "probabilities": named}
        if target["classes"] is None:  # logits (windows,)
            return {"value": target["centre"] + float(logits.mean())}
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))  # (windows, K)
        shares = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        probabilities = dict(zip(target["classes"], shares.tolist(), strict=True))
        return {"class": target["classes"][int(shares.argmax())], "probabilities": probabilities}

    def _cut(self, x: np.ndarray, i: int) -> np.ndarray:
        """Window ``i`` of a long clip, the last of which ends with it; of the rest, all."""
        if x.ndim > 1 or len(x) <= self.window:
            return x
        place = min(1.0, i / max(1, -(-len(x) // self.window) - 1))
        start = int(place * (len(x) - self.window) + 0.5)
        return x[start : start + self.window]

    def _table(self, name: str, value: Any) -> dict[str, np.ndarray]:
        table = self.fitted["tables"][name]
        if isinstance(value, str):
            value = dict(part.strip().split("=", 1) for part in value.split(","))
        if unknown := sorted(value.keys() - set(table["columns"])):
            raise ValueError(f"no columns {unknown}; the table has {table['columns']}")
        cells = {column: "" if x is None else str(x).strip() for column, x in value.items()}
        numbers, ids, there = [], [], []
        for column, (mean, std) in table["numbers"].items():
            cell = cells.get(column, "")
            steps = (float(cell) - mean) / std if cell and std > 1e-12 * abs(mean) else 0.0
            numbers.append(min(max(steps, -self.about["farthest"]), self.about["farthest"]))
            there.append(bool(cell))
        for column, known in table["categories"].items():
            cell = cells.get(column, "")
            ids.append(known.index(cell) + 1 if cell in known else 0)
            there.append(ids[-1] > 0)
        found = (np.array([numbers], np.float32), np.array([ids], np.int64), np.array([there]))
        return dict(zip((name, f"{name}_category", f"{name}_mask"), found, strict=True))

    def _text(self, name: str, value: str | None) -> np.ndarray:
        text = unicodedata.normalize("NFKC", value or "").lower().replace("\u2019", "'")
        ids = {word: i for i, word in enumerate(self.fitted["vocabularies"][name], 4)}
        words = re.findall(self.about["token"], text)[: self.about["max_tokens"]]
        return np.array([ids.get(word, 1) for word in words] or [0], np.int64)  # 1: unknown

    def _image(self, name: str, value: Any) -> np.ndarray:
        from PIL import Image

        size, mean, std = (self.fitted[key][name] for key in ("sizes", "mean", "std"))
        if value is None:
            return np.zeros((3, size, size), np.float32)
        image = Image.fromarray(value) if isinstance(value, np.ndarray) else Image.open(value)
        if image.mode[0] in "IF":
            raise ValueError("a picture of more than 8 bits: bring it to 8 bits first")
        turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(image.getexif().get(274, 1))
        longer = max(image.size)
        image.draft(None, tuple(max(1, 2 * size * side // longer) for side in image.size))
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        image, longer = image.convert("RGB"), max(image.size)
        sides = tuple(max(1, round(side * size / longer)) for side in image.size)
        image = image.resize(sides, Image.Resampling.BILINEAR, reducing_gap=3.0)
        pixels = np.asarray(image if turn is None else image.transpose(Image.Transpose(turn)))
        height, width, _ = pixels.shape
        square = np.empty((size, size, 3), np.uint8)
        square[:] = pixels.mean(axis=(0, 1)).round()
        top, left = (size - height) // 2, (size - width) // 2
        square[top : top + height, left : left + width] = pixels
        return ((square / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)  # (3, S, S)

    def _audio(self, name: str, value: Any) -> np.ndarray:
        import soundfile
        from scipy.signal import firwin, resample_poly

        if value is None:
            return np.zeros(1, np.float32)
        if isinstance(value, (str, Path)):
            with open(value, "rb") as file:  # not the name, by which it would choose the decoder
                value = soundfile.read(file, dtype="float32", always_2d=True)
        samples, rate = value if isinstance(value, tuple) else (value, self.fitted["rate"])
        samples = np.asarray(samples, np.float32)
        mono = samples if samples.ndim == 1 else samples.mean(axis=1)  # (L, channels) -> (L,)
        if rate != self.fitted["rate"]:
            ratio = Fraction(self.fitted["rate"], rate).limit_denominator(1000)
            up, down = ratio.numerator, ratio.denominator
            longer = max(up, down)
            low_pass = firwin(20 * longer + 1, 1 / longer, window=("kaiser", 5.0))
            mono = resample_poly(mono, up, down, window=low_pass.astype(np.float32))
        whole = np.rint(np.clip(mono, -1, 1) * np.float32(32767))  # as 16-bit samples
        return whole.astype(np.float32) / np.float32(32767)


if __name__ == "__main__":
    values = dict(argument.split("=", 1) for argument in sys.argv[1:])
    answer = Client(Path(__file__).with_suffix(".onnx")).predict(**values)
    print(json.dumps(answer, ensure_ascii=False))
