"""A model -> an ONNX file with named inputs of any size, checked against torch.

Beside it stand its preprocessing as JSON, a client for it, and its weights as safetensors.
"""

import copy
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from mmlib.core import Batch, modalities
from mmlib.data import Preprocessing
from mmlib.data.audio import WINDOW
from mmlib.data.columns import FARTHEST
from mmlib.data.store import MAX_TOKENS
from mmlib.data.text import TOKEN
from mmlib.files import as_json, write_atomically
from mmlib.recipes.recurrence import replace_recurrence

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CLIENT = Path(__file__).with_name("onnx_client.py")
FORMAT = 1  # of the description in the metadata
LARGEST = 2_000_000_000  # bytes: a file of protocol buffers ends at 2 GiB
TOLERANCE = 1e-4  # of the check: a difference from torch, relative where logits are above 1
MOST_ROWS = 64  # of the check: for six modalities, that is every subset of them
ANSWERED = ("classes", "labels", "number")  # the kinds that the client makes answers of
# the loggers of torch that say what its exporter finds out about sizes
TALKERS = ("torch.fx.experimental.symbolic_shapes", "torch._export.non_strict_utils")
PROBABILITIES = {"classes": "softmax", "labels": "sigmoid", "ordinal": "sigmoid"}


class Exported(NamedTuple):
    """What ``export`` returns."""

    files: list[Path]  # what was written, the ONNX file first
    inputs: dict[str, list[int | str]]  # the shape of each input; a name is an axis of any size
    difference: float  # from torch, the largest in the check; relative where logits are above 1


def export(
    model: nn.Module,
    sample: Batch,
    path: str | Path,
    preprocessing: Preprocessing | None = None,
    weights: bool = False,
) -> Exported:
    """Write ``model`` as ONNX to ``path``, with the keys of the batch as inputs; output: logits.

    ``sample`` is a batch, such as ``next(iter(loader))``. The number of rows, lengths and sizes are
    free, apart from those that the model fixes (in the sample they are over 1). A missing modality
    is a mask of False, as in torch. Beside NAME.onnx stands NAME.json: the head's kind,
    what makes probabilities of the logits, the inputs, and the preprocessing; the ONNX file has it
    in its metadata, too. With ``preprocessing``, for classes, labels and numbers, there is NAME.py,
    a client with numpy and onnxruntime that answers as ``Predictor.predict``; with ``weights``
    there is NAME.safetensors. Files of these names are replaced.

    Before anything is written, onnxruntime answers as torch does: every subset of up to six
    modalities, and other rows and sizes than those of the sample. Raises ImportError, saying what
    to install, before anything else; ValueError, naming the part of the model and the reason, for
    a model that has no graph, or whose graph answers in another way.

    >>> import mmlib, torch
    >>> encoders = {"text": mmlib.RecurrentEncoder(8, vocab_size=20)}
    >>> backbone = mmlib.Backbone(encoders, mmlib.SumFusion(8, encoders))
    >>> model = mmlib.Model(backbone, mmlib.ClassifyHead(8, classes=2))
    >>> words = torch.tensor([[3, 4, 7], [5, 6, 0]])
    >>> try:
    ...     exported = export(model, {"text": words, "text_mask": words > 0}, "model.onnx")
    ...     print(exported.inputs["text"] == ["batch", "text_length"], exported.difference < 1e-5)
    ... except ImportError:  # the extra `export` is not installed
    ...     print(True, True)
    True True
    """
    check_installed(weights)
    path, network = Path(path), copy.deepcopy(model).cpu().eval()
    replace_recurrence(network)
    model = copy.deepcopy(model).cpu().eval()
    batch = _inputs_of(model, sample)
    size = sum(value.nbytes for value in model.state_dict().values())
    if size > LARGEST:
        raise ValueError(f"the model has {size / 1e9:.1f} GB of weights; an ONNX file holds 2 GB")
    proto = _to_onnx(network, batch)
    inputs = _name_axes(proto, batch)
    _check_fixed(model, batch, inputs)
    about = describe(model, inputs, preprocessing)
    property_ = proto.metadata_props.add()
    property_.key, property_.value = "mmlib", as_json(about)
    content = proto.SerializeToString()
    difference = _check(model, batch, content, inputs)
    files = {path: content, path.with_suffix(".json"): (as_json(about, indent=2) + "\n").encode()}
    if preprocessing is not None and about["kind"] in ANSWERED:
        files[path.with_suffix(".py")] = CLIENT.read_bytes()
    if weights:
        files[path.with_suffix(".safetensors")] = _safetensors(model, about)
    for name, content in files.items():
        write_atomically(name, partial(_write, content))
    return Exported(list(files), inputs, difference)


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def check_installed(weights: bool = False) -> None:
    """Raise ImportError, saying what to install, where a package that ``export`` needs is not."""
    needed = (*PACKAGES, *["safetensors"] * weights)
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ImportError(
            f"export needs {', '.join(missing)}, not installed here: pip install 'mmlib[export]' "
            f"(in the folder of the course: '.[export]'), or pip install {' '.join(needed)}"
        )


def describe(
    model: nn.Module, inputs: dict[str, list[int | str]], preprocessing: Preprocessing | None
) -> dict[str, Any]:
    """What a client must know, as plain data."""
    kind = getattr(model, "kind", None)
    about = {
        "format": FORMAT,
        "kind": kind,
        "probabilities": PROBABILITIES.get(kind or ""),  # of the logits; None: there are none
        "inputs": inputs,
    }
    if preprocessing is None:
        return about
    return about | {
        "token": TOKEN.pattern,
        "max_tokens": MAX_TOKENS,
        "window": WINDOW,
        "farthest": FARTHEST,
        "preprocessing": preprocessing.state(),
    }


class _Seen(Batch):  # a dict
    """A batch that notes which keys are read."""

    def __init__(self, batch: Batch):
        super().__init__(batch)
        self.keys_read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.keys_read.add(key)
        return super().__getitem__(key)


class _ByName(nn.Module):
    """The model, with a tensor for each of ``keys`` in place of a batch -> its logits."""

    def __init__(self, model: nn.Module, keys: list[str]):
        super().__init__()
        self.model, self.keys = model, keys

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(dict(zip(self.keys, tensors, strict=True))).logits


def _inputs_of(model: nn.Module, sample: Batch) -> Batch:
    """What the model reads of a batch, on the CPU, with at least two rows: one would stay one."""
    if not sample:
        raise ValueError("sample is empty, expected a batch such as next(iter(loader))")
    batch = {
        key: value.detach().cpu() for key, value in sample.items() if not key.startswith("target")
    }
    seen = _Seen({key: _resized(value, {0: max(2, len(value))}) for key, value in batch.items()})
    try:
        logits = _answer(model, seen)
    except KeyError as error:
        raise ValueError(
            f"the model reads batch[{error}], which the sample has not, or which is an answer: a "
            "graph answers from the inputs alone"
        ) from error
    if getattr(model, "kind", None) == "contrast":
        raise ValueError(
            f"{type(model).__name__} compares the rows of a batch with each other, so it has no "
            "answer for a row that a file could give: make its vectors with model.embed(batch)"
        )
    if not logits.numel():
        head = type(getattr(model, "head", model)).__name__
        raise ValueError(
            f"{head} has no logits without a target: it writes word by word, in a loop that no "
            "graph holds; use its generate() in torch"
        )
    return {key: value for key, value in seen.items() if key in seen.keys_read}


@torch.no_grad()
def _answer(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch).logits


def _to_onnx(network: nn.Module, batch: Batch) -> Any:
    """The graph of a batch of these keys, any axis of any size. Raises ValueError: it has none."""
    auto = torch.export.Dim.AUTO  # free, unless the model itself fixes it (channels)
    axes = tuple(dict.fromkeys(range(value.ndim), auto) for value in batch.values())
    values, by_name = tuple(batch.values()), _ByName(network, list(batch)).eval()
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(by_name, values, dynamic_shapes=(axes,))
            made = torch.onnx.export(
                program,
                values,
                dynamo=True,
                verbose=False,
                input_names=list(batch),
                output_names=["logits"],
            )
    except Exception as error:  # an exporter may raise anything
        part = _place(error, network) or type(network).__name__
        reason = str(error).strip().partition("\n\n")[0] or type(error).__name__
        raise ValueError(f"{part} has no ONNX graph: {reason}") from error
    assert made is not None  # it is, with dynamo
    return made.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """In this block torch's exporter does not talk about its own insides."""
    loggers = [logging.getLogger(name) for name in TALKERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _place(error: BaseException | None, network: nn.Module) -> str | None:
    """The innermost part of the network in whose forward pass an error was raised."""
    names = {id(part): name for name, part in network.named_modules() if name}
    found = None
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            part = frame.f_locals.get("self")
            if id(part) in names:
                found = f"{names[id(part)]} ({type(part).__name__})"
        error = error.__cause__ or error.__context__
    return found


def _name_axes(proto: Any, batch: Batch) -> dict[str, list[int | str]]:
    """Names instead of s0, s1, ... for the free axes, in place; the shape of each input."""
    names: dict[str, str] = {}
    for value in proto.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param.isdigit():  # a fixed one, as text
                dim.dim_value = int(dim.dim_param)
            elif dim.dim_param:
                ndim = batch[value.name].ndim
                names.setdefault(
                    dim.dim_param, _axis_name(value.name, axis, ndim, modalities(batch))
                )
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(
                    r"\w+", lambda found: names.get(found[0], found[0]), dim.dim_param
                )
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.input
    }


def _axis_name(key: str, axis: int, ndim: int, names: list[str]) -> str:
    """("image", 3, 4) -> "image_width"."""
    if axis == 0:
        return "batch"
    name = key if key in names else key.removesuffix("_mask")
    words = {1: "width", 2: "height"} if ndim >= 4 else {1: "length"}
    return f"{name}_{words.get(ndim - axis, axis)}"


def _check_fixed(model: nn.Module, batch: Batch, inputs: dict[str, list[int | str]]) -> None:
    """Raise ValueError for an axis that the graph keeps as it is in the sample, not the model."""
    for key, shape in inputs.items():
        if shape[0] != "batch":
            raise ValueError(
                f"the graph keeps the number of rows of batch[{key!r}], {shape[0]}: a part of the "
                "model makes a constant of it, as len(x) does; write x.shape[0]"
            )
        mask, fixed = f"{key}_mask", [i for i, size in enumerate(shape) if isinstance(size, int)]
        for axis in fixed if key in modalities(batch) else []:
            other = batch | {key: _resized(batch[key], {axis: batch[key].shape[axis] + 1})}
            if mask in batch and axis == batch[key].ndim - 1:
                other[mask] = _resized(batch[mask], {1: other[key].shape[axis]})
            try:
                _answer(model, other)
            except Exception:  # no other size fits: the model keeps it, too
                continue
            raise ValueError(
                f"the graph keeps axis {axis} of batch[{key!r}] at {shape[axis]}, where the model "
                "takes other sizes, too: a loop over it is written out, or it is 1 in the sample, "
                "and a sample of more is needed"
            )


def _check(
    model: nn.Module, batch: Batch, content: bytes, inputs: dict[str, list[int | str]]
) -> float:
    """Ask torch and onnxruntime the same; the largest difference. ValueError where it is large."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is told below, in words
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    largest = 0.0
    for one in _variants(batch, inputs):
        try:
            want = _answer(model, one)
        except (RuntimeError, ValueError):
            continue  # a size that the model itself does not take
        try:
            got = session.run(["logits"], {key: value.numpy() for key, value in one.items()})[0]
        except Exception as error:  # onnxruntime has many, without a common class
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"the graph fails for {_sizes(one)}, where the model answers: a part of it keeps a "
                f"size of the sample, {_sizes(batch)} ({reason})"
            ) from error
        scale = want.abs().clamp(min=1)
        difference = float(((torch.from_numpy(got) - want).abs() / scale).max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the graph differs from the model by {difference:.1e} for {_sizes(one)}: a part "
                f"of it keeps a size of the sample, {_sizes(batch)}, or draws at random"
            )
        largest = max(largest, difference)
    return largest


def _variants(batch: Batch, inputs: dict[str, list[int | str]]) -> Iterator[Batch]:
    """Batches of other rows and sizes; the first has a row for each subset of the modalities."""
    names = modalities(batch)
    subsets = min(2 ** len(names), MOST_ROWS)
    for rows, change in (
        (subsets, lambda size: size),
        (1, lambda size: -(-size // 2)),
        (3, lambda size: size + size // 2 + 1),
    ):
        one = {}
        for key, value in batch.items():
            free = [axis for axis, name in enumerate(inputs[key]) if isinstance(name, str)]
            sizes = {axis: change(value.shape[axis]) for axis in free if axis}
            repeated = value[torch.arange(rows) % len(value)]
            one[key] = _resized(repeated, sizes)
        if rows == subsets:
            for place, name in enumerate(names):
                absent = torch.arange(rows) >> place & 1 == 1
                one[f"{name}_mask"] = one[f"{name}_mask"] & ~absent[:, None]
        yield one


def _resized(value: Tensor, sizes: dict[int, int]) -> Tensor:
    """The tensor with these sizes by axis, cut or padded with zeros: a mask's padding is False."""
    for axis, size in sizes.items():
        value = value.narrow(axis, 0, min(size, value.shape[axis]))
        more = size - value.shape[axis]
        shape = [more if i == axis else length for i, length in enumerate(value.shape)]
        value = torch.cat([value, value.new_zeros(shape)], dim=axis)
    return value


def _sizes(batch: Batch) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in batch.items()}


def _safetensors(model: nn.Module, about: dict[str, Any]) -> bytes:
    """All weights and buffers under their names in ``state_dict``, and ``about`` as metadata."""
    from safetensors.torch import save

    # copies: safetensors refuses two names for one piece of memory
    state = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
    return save(state, {"mmlib": as_json(about)})
