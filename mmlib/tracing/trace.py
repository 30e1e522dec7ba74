"""A model and a batch -> Trace: shapes, tokens, parameters and FLOPs of one forward pass.

It has a row for each stage; if a shape is wrong, it names the stage that failed.
"""

import html
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.core import Batch
from mmlib.text_table import aligned
from mmlib.tracing.record import FAILED, Recorder, Stage, shape, unread

# what a wrong shape may raise
ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
COLUMNS = ("stage", "class", "input", "output", "tokens", "real", "parameters", "FLOPs")
WORDS = 4  # the first four columns are words, aligned to the left; the others are numbers


@dataclass
class Trace:
    """What ``trace`` returns; it prints as a table.

    ``rows`` are in the order of the calls; ``parameters`` and ``flops`` are those of the whole
    model.

    >>> import mmlib, torch
    >>> result = mmlib.trace(torch.nn.Linear(3, 2), torch.zeros(5, 3))
    >>> result.parameters, result.flops  # 3 * 2 + 2; 2 * 5 * 3 * 2
    (8, 60)
    """

    rows: list[Stage]

    @property
    def parameters(self) -> int:
        """How many numbers the model holds as parameters."""
        return sum(row.parameters for row in self.rows if row.level == 0)

    @property
    def flops(self) -> int:
        """The FLOPs of the whole forward pass, for this batch."""
        return sum(row.flops for row in self.rows if row.level == 0)

    def __str__(self) -> str:
        """The table as aligned text."""
        lines = aligned([list(COLUMNS), *self._cells()], left=WORDS)
        return "\n".join("  ".join(line).rstrip() for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The table for a notebook."""

        def line(cells: list[str], tag: str) -> str:
            made = ""
            for i, cell in enumerate(cells):
                style = f"text-align: {'left' if i < WORDS else 'right'}; white-space: pre"
                made += f'<{tag} style="{style}">{html.escape(cell)}</{tag}>'
            return f"<tr>{made}</tr>"

        body = "".join(line(cells, "td") for cells in self._cells())
        return f"<table><thead>{line(list(COLUMNS), 'th')}</thead><tbody>{body}</tbody></table>"

    def _cells(self) -> list[list[str]]:
        lines: list[list[str]] = []
        path: list[str] = []  # the names of the rows that the present one lies in
        for row in self.rows:
            path = path[: row.level]
            name = row.name.removeprefix(f"{path[-1]}.") if path else row.name
            path.append(row.name)
            numbers = [row.tokens, row.real, row.parameters, row.flops]
            lines.append(
                ["  " * row.level + name, row.kind, row.input, row.output]
                + ["" if row.output == FAILED else _number(value) for value in numbers]
            )
        total = ["whole", "", "", "", "", "", _number(self.parameters), _number(self.flops)]
        return lines + [total] * all(row.output != FAILED for row in self.rows)

    def plot(self) -> Any:
        """A matplotlib Figure: the stages as boxes, from the batch on the left to the answer.

        An arrow leads from what is read to the stage that reads it.
        """
        from mmlib.tracing.figure import draw

        return draw([row for row in self.rows if row.level == 0])


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def trace(model: nn.Module, batch: Batch | Tensor, depth: int = 1) -> Trace:
    """Run ``model(batch)`` once, in evaluation mode and without gradients: what does each stage do?

    The stages are the encoders, the fusion and the head: a module that is given the whole batch
    (Model, Backbone, TwoTower, or one of your own) is opened, and each module that it calls is a
    stage. ``depth`` 2 also shows the layers that a stage calls, 3 the layers below them, indented.
    What the model itself does between its stages, and parameters that belong to no stage, stand in
    a last row, "(itself)". A parameter that several rows share counts in the first of them. So the
    rows of level 0 add up to the whole.

    FLOPs are those of ``torch.utils.flop_counter``, two for a multiply-add: matrix products,
    convolutions and attention, padding included. The fused LSTM and attention, which it misses on
    a CPU, and the recurrent layers of cuDNN are added here. Norms, activations, sums and Fourier
    transforms are not counted.

    Afterwards the model is as it was: mode, buffers, hooks, random numbers. (The ``.weights`` that
    a layer keeps are those of its last forward pass, as always: here, of this one.) If a stage
    fails, ValueError names it and shows the table up to there. Raises ValueError, too, for a
    ``depth`` below 1.

    >>> import mmlib, torch
    >>> fusion = mmlib.SumFusion(16, ["text"])
    >>> backbone = mmlib.Backbone({"text": mmlib.TransformerEncoder(16, vocab_size=50)}, fusion)
    >>> ids = torch.tensor([[4, 9, 2], [7, 3, 0]])
    >>> print(mmlib.trace(backbone, {"text": ids, "text_mask": ids > 0}))
    stage          class               input            output      tokens  real  parameters   FLOPs
    encoders.text  TransformerEncoder  (2, 3), (2, 3)   (2, 3, 16)       6     5       7,392  76,032
    fusion         SumFusion           text (2, 3, 16)  (2, 1, 16)       2     2         272   1,024
    whole                                                                              7,664  77,056
    """
    from torch.utils.flop_counter import FlopCounterMode  # 0.2 s to import

    if depth < 1:
        raise ValueError(f"depth is {depth}, expected 1 (the stages) or more")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batch = _moved(batch, device)
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    recorder = Recorder(model, batch, depth, counter.get_total_flops)
    with _undisturbed(model, device), recorder.watching():
        try:
            with counter:
                output = model(batch)
        except ERRORS as error:
            if not recorder.rows or _is_out_of_memory(error):
                raise  # no stage has begun, or the cause is not a shape
            raise ValueError(_describe(recorder, error)) from error
    rest = _rest(model, output, Trace(recorder.rows), counter.get_total_flops())
    return Trace(recorder.rows + rest)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def _rest(model: nn.Module, output: Any, stages: Trace, flops: int) -> list[Stage]:
    """A row for what belongs to no stage, if there is anything."""
    parameters = sum(p.numel() for p in model.parameters()) - stages.parameters
    if not (parameters or flops > stages.flops):
        return []
    return [
        Stage(
            "(itself)",
            type(model).__name__,
            output=shape(output),
            parameters=parameters,
            flops=flops - stages.flops,
            reads=unread(stages.rows),
        )
    ]


def _moved(batch: Any, device: torch.device) -> Any:
    """The batch, or a tensor, on ``device`` and cut off from its gradients."""
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    return batch.detach().to(device) if isinstance(batch, Tensor) else batch


def _describe(recorder: Recorder, error: Exception) -> str:
    """What failed, where, and the table up to there."""
    stages = [(name, module) for module, name, row, _ in recorder.calls if row is not None]
    module, deepest = recorder.calls[-1][:2]
    where = f"{type(module).__name__} itself, after the stages below,"
    if stages:
        path, stage = stages[0]
        where = f"{path or '(itself)'} ({type(stage).__name__})"
        if module is not stage:
            where += f", in its {deepest.removeprefix(f'{path}.')} ({type(module).__name__}),"
    return f"{where} failed: {error}\n{Trace(recorder.rows)}"


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """While this block runs, the model is in evaluation mode and without gradients.

    Afterwards its mode, its buffers and the random numbers are as they were.
    """
    training = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    learning = [p for p in model.parameters() if p.requires_grad]
    fast = torch.backends.mha.get_fastpath_enabled()
    # without it, torch's own transformer layers run as operations that the counter knows
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            # torch's counter fails on a view of a parameter that requires a gradient
            model.eval().requires_grad_(False)
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_()
        torch.backends.mha.set_fastpath_enabled(fast)
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)
        for module, mode in training.items():
            module.training = mode


Shape = tuple[int, ...]


def _lstm(x: Shape, w_input: Shape, w_hidden: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(x[:-1]) * (math.prod(w_input) + math.prod(w_hidden))


def _recurrent(x: Shape, weights: list[Shape], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) == 2)


def _attention(q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


FORMULAS = {
    torch.ops.aten.mkldnn_rnn_layer: _lstm,
    torch.ops.aten._cudnn_rnn: _recurrent,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}
