"""What a forward pass did, call by call: a Stage for each module that was called."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mmlib.core import Features, Output

FAILED = "failed here"


@dataclass(eq=False)
class Stage:
    """One row of a Trace: a module that was called.

    Shapes are text. ``tokens`` and ``real`` count the tokens of all samples together.
    """

    name: str  # as model.get_submodule(name) takes it
    kind: str  # the name of its class
    level: int = 0  # 0: a stage; 1: a layer that a stage calls; 2: a layer that this one calls ...
    input: str = ""
    output: str = FAILED
    tokens: int | None = None  # B * T; None where no Features come out
    real: int | None = None  # how many of them the mask says are real
    parameters: int = 0
    flops: int = 0
    # where its input comes from: the numbers of other stages; keys of the batch, with their shapes
    reads: list[int | str] = field(default_factory=list)


class Recorder:
    """Writes a Stage for each call of a module, down to ``depth`` levels.

    ``flops()`` gives the FLOPs counted so far.
    """

    def __init__(self, model: nn.Module, batch: Any, depth: int, flops: Callable[[], int]):
        self.batch, self.depth, self.flops = batch, depth, flops
        self.flat = isinstance(batch, dict)
        self.rows: list[Stage] = []
        # calls that have not returned: module, name, Stage, FLOPs before it; Stage is None if the
        # module is opened or lies too deep
        self.calls: list[tuple[nn.Module, str, Stage | None, int]] = []
        # outputs, each with the number of its stage; kept alive, so that no other tensor gets
        # their id
        self.made: list[tuple[Tensor, int]] = []
        self.counted: list[set[Tensor]] = [set() for _ in range(depth)]  # parameters, by level
        # a module may stand in several places of the model: its first call gets its first name
        self.names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self.names.setdefault(module, []).append(name)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While this block runs, every call of a module of the model is recorded."""
        hooks = []
        try:
            for module in self.names:
                hooks.append(module.register_forward_pre_hook(self.before, with_kwargs=True))
                hooks.append(module.register_forward_hook(self.after))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def before(self, module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Before a module is called: note the call, and add its Stage if it gets one."""
        given = [*positional, *named.values()]
        inside = [row for _, _, row, _ in self.calls if row is not None]
        names = self.names[module]
        name = names.pop(0) if len(names) > 1 else names[0]
        whole = not self.calls or (self.flat and len(given) == 1 and given[0] is self.batch)
        opened = whole and not inside and any(True for _ in module.children())
        row = None
        if not opened and len(inside) < self.depth:
            given = [value for value in given if value is not self.batch or not self.flat]
            row = Stage(name or "(itself)", type(module).__name__, len(inside), shape(given))
            row.reads = [] if inside else self.sources(given)
            self.rows.append(row)
        self.calls.append((module, name, row, self.flops()))

    def after(self, module: nn.Module, positional: tuple[Any, ...], output: Any) -> None:
        """After a module has returned: complete its Stage."""
        while self.calls[-1][0] is not module:  # a module failed, and its caller handled the error
            self.calls.pop()
        _, _, row, before = self.calls.pop()
        if row is None:
            return
        row.output, row.flops = shape(output), self.flops() - before
        new = set(module.parameters()) - self.counted[row.level]
        self.counted[row.level] |= new
        row.parameters = sum(p.numel() for p in new)
        if isinstance(output, Features):
            row.tokens, row.real = output.mask.numel(), int(output.mask.sum())
        if row.level == 0:
            number = sum(other.level == 0 for other in self.rows) - 1
            self.made += [(tensor, number) for tensor in _tensors(output)]

    def sources(self, given: list[Any]) -> list[int | str]:
        """Where these tensors come from: keys of the batch, numbers of stages.

        A tensor that was computed between two stages has no known source. Then the sources are all
        stages whose output no other stage has been given yet.
        """
        ids = {id(tensor) for tensor in _tensors(given)}
        items = self.batch.items() if self.flat else []
        keys = [
            f"{key} {shape(value)}"
            for key, value in items
            if id(value) in ids and not key.endswith("_mask")
        ]
        stages = sorted({number for tensor, number in self.made if id(tensor) in ids})
        return [*keys, *stages] or unread(self.rows)


def unread(rows: list[Stage]) -> list[int | str]:
    """The numbers of the stages whose output no other stage was given."""
    stages = [row for row in rows if row.level == 0]
    read = {number for row in stages for number in row.reads}
    return [number for number in range(len(stages)) if number not in read]


def shape(value: Any) -> str:
    """The shapes of all tensors in ``value``, as text.

    For Features it is the shape of the tokens, and also those of mask and pooled if they do not
    fit; for Output it is that of the logits.
    """
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, Output):
        return shape(value.logits)
    if isinstance(value, Features):
        tokens, mask, pooled = (tuple(part.shape) for part in value)
        fits = len(tokens) == 3 and mask == tokens[:2] and pooled == tokens[::2]
        return str(tokens) if fits else f"tokens {tokens}, mask {mask}, pooled {pooled}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text}" for key, part in value.items() if (text := shape(part)))
    if isinstance(value, (list, tuple)):
        return ", ".join(text for part in value if (text := shape(part)))
    return ""


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in ``value``, through mappings, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)
