"""A model over a whole loader -> its scores, or its logits."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Output, check_batch
from mmlib.machine import explaining_out_of_memory
from mmlib.train import distributed
from mmlib.train.layout import stored_by_pixel
from mmlib.train.share import is_shared
from mmlib.train.windows import first_windows, one_per_row

Metric = Callable[[Tensor, Tensor], float]
Whole = tuple[Tensor, Tensor | None, Tensor | None]  # logits, target, rows
Pairs = tuple[Tensor, Tensor, Tensor, Tensor | None]  # query, key, present, item
Answer = TypeVar("Answer")
LEFT_OUT = ("classes", "ordinal", "contrast")  # kinds in which a target of -100 is left out
CHUNK = 2048  # queries compared with all keys at a time
EMPTY = "the loader is empty: no batch to evaluate"


class Part(NamedTuple):
    """The answers to one batch, on the CPU."""

    place: Tensor  # (N,) the place of each line in the whole set
    logits: Tensor  # (N, K) or (N,)
    target: Tensor | None
    row: Tensor | None


class Vectors(NamedTuple):
    """The vectors that a model of kind "contrast" makes of one batch, on the CPU."""

    place: Tensor  # (B,)
    pairs: Pairs
    row: Tensor | None


class Comparing(Protocol):
    """A model of kind "contrast", such as ``TwoTower``."""

    def embed(self, batch: Batch) -> Pairs:
        """The vectors of each sample."""

    def compare(self, pairs: Pairs, own: slice) -> Output:
        """The logits and the loss of the queries ``own`` against all keys."""


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch | None],
    metrics: Mapping[str, Metric] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, float]:
    """The scores over the whole set: the mean loss over all targets, and each metric by its name.

    A metric is a function (logits, target) -> number of the whole set, as ``collect`` gives it. The
    loss is the head's, over all windows of a row; that of a ``TwoTower`` compares the samples of
    the whole set, not batch by batch. Rows with the target -100 are left out of loss and metrics.
    Device "auto" is where the model is; another one moves the model there. Each part of the model
    ends in the mode (train or eval) it was in, also after an error. Under torchrun a loader with
    ``shard`` is shared by the processes, and all of them get the same numbers; each process reads
    any other loader whole. Raises ValueError if the loader is empty or has no target.

    >>> from mmlib import Backbone, ClassifyHead, Model, RecurrentEncoder, SumFusion
    >>> _ = torch.manual_seed(0)
    >>> backbone = Backbone({"text": RecurrentEncoder(8, 20)}, SumFusion(8, ["text"]))
    >>> model = Model(backbone, ClassifyHead(8, 2))
    >>> words = torch.tensor([[3, 4], [5, 6]])
    >>> batch = {"text": words, "text_mask": words > 0, "target": torch.tensor([0, 1])}
    >>> from mmlib.metrics import accuracy
    >>> sorted(evaluate(model, [batch], {"accuracy": accuracy}, "cpu"))
    ['accuracy', 'loss']
    """
    loss, whole = _pass_over(model, loader, device, precision, keep=bool(metrics))
    if loss is None:
        raise ValueError(
            "the model gave no loss: the batches have no 'target'; to predict, use collect(model, "
            "loader)"
        )
    if not metrics:
        return {"loss": loss}
    logits, target, _ = whole
    if target is None:
        raise ValueError(f"the metrics {sorted(metrics)} need batch['target']")
    if _kind(model) in LEFT_OUT:
        logits, target = logits[target != -100], target[target != -100]
    return {"loss": loss} | {
        name: float(metric(logits, target)) for name, metric in metrics.items()
    }


def collect(
    model: nn.Module, loader: Iterable[Batch | None], device: str = "auto", precision: str = "auto"
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Logits, target and rows of the whole set, on the CPU.

    The logits are float32, (N, K) or (N,); target and rows are (N,), or None if the batches have
    none. If the batches have ``row``, there is one line per row, sorted by row number: the windows
    of a row are averaged, as the model's ``kind`` says (see ``mmlib.core``). Sequences (B, S, K)
    become one line per real target position, in order. A ``TwoTower`` gives all queries by all
    keys, (N, N), and as target the place of each query's own key (-100 if one of the two is
    absent). For device, mode and processes see ``evaluate``.

    >>> from mmlib import Backbone, ClassifyHead, Model, RecurrentEncoder, SumFusion
    >>> _ = torch.manual_seed(0)
    >>> backbone = Backbone({"text": RecurrentEncoder(8, 20)}, SumFusion(8, ["text"]))
    >>> model = Model(backbone, ClassifyHead(8, 2))
    >>> words = torch.tensor([[3, 4], [5, 6]])
    >>> batch = {"text": words, "text_mask": words > 0, "target": torch.tensor([0, 1])}
    >>> logits, target, row = collect(model, [batch], "cpu")
    >>> logits.shape, target, row
    (torch.Size([2, 2]), tensor([0, 1]), None)
    """
    return _pass_over(model, loader, device, precision, keep=True)[1]


def to_device(batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
    """The batch on ``device``; with ``channels_last``, images (B, C, H, W) stored pixel by pixel.

    Convolutions read them faster in that order. If the loader pins its memory
    (``DataLoader(pin_memory=True)``), a GPU goes on computing while the batch is copied.
    """
    moved = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    if channels_last:
        moved = {
            key: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
            for key, value in moved.items()
        }
    return moved


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context that computes in bf16: if asked to, or with "auto" on GPUs whose hardware has it.

    Otherwise it does nothing. Weights stay float32. It may be entered any number of times.
    """
    auto = (
        precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    if precision == "bf16" or auto:
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _kind(model: nn.Module) -> str | None:
    kind = getattr(model, "kind", None)
    return kind if isinstance(kind, str) else None


def _device(model: nn.Module, device: str) -> torch.device:
    """The device to compute on; under torchrun this process also joins the others."""
    chosen, first = distributed.join(device), next(model.parameters(), None)
    return first.device if device == "auto" and first is not None else chosen


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """In this block the model is in eval mode; after it each part is in the mode it was in."""
    in_training = [part for part in model.modules() if part.training]
    if in_training:  # setting the mode of each part takes as long as a small layer
        model.eval()
    try:
        yield
    finally:
        for part in in_training:
            part.training = True


@torch.no_grad()
def _pass_over(
    model: nn.Module, loader: Iterable[Batch | None], device: str, precision: str, keep: bool
) -> tuple[float | None, Whole]:
    """The mean loss and the answers to the whole set; without ``keep`` the latter are empty."""
    chosen, shared = _device(model, device), is_shared(loader)
    with in_eval_mode(model.to(chosen)), stored_by_pixel(model):
        if _kind(model) == "contrast":
            comparing = cast(Comparing, model)
            vectors = _answers(comparing.embed, model, loader, chosen, precision)
            return _compared(comparing, vectors, shared, keep, chosen)
        answers = _answers(model, model, loader, chosen, precision)
        return _averaged(_kind(model), answers, shared, keep)


def _answers(
    ask: Callable[[Batch], Answer],
    model: nn.Module,
    loader: Iterable[Batch | None],
    device: torch.device,
    precision: str,
) -> Iterator[tuple[Tensor, Batch, Answer]]:
    """Of each batch: its samples' places in the whole set, the batch, and what ``ask`` returns."""
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(0)
    shared, casting, last = is_shared(loader), autocast(device, precision), None
    if is_shared(loader):
        loader = loader.shard(distributed.rank(), distributed.world())
    for number, batch in enumerate(loader):
        if batch is not None:
            if last is None:
                check_batch(batch, ())
            with explaining_out_of_memory(batch), casting:
                last = to_device(batch, device)
                answer = ask(last)
            yield _places(batch, number, shared), batch, answer
        elif distributed.is_sharded(model):  # no share of this batch, but the others need its pass
            if last is None:
                raise ValueError(
                    "fewer samples than processes: evaluate on more rows, or use fewer processes"
                )
            ask(last)


def _places(batch: Batch, number: int, shared: bool) -> Tensor:
    """(B,) the place of each sample in the whole set: batch number, then place in the batch."""
    step, first = (distributed.world(), distributed.rank()) if shared else (1, 0)
    return torch.arange(len(next(iter(batch.values())))) * step + first + (number << 32)


def _averaged(
    kind: str | None,
    answers: Iterable[tuple[Tensor, Batch, Output]],
    shared: bool,
    keep: bool,
) -> tuple[float | None, Whole]:
    """The mean of the losses, weighted by their counts, and the answers put together."""
    weighed, parts, seen = [], [], False
    for place, batch, output in answers:
        seen = True
        if output.loss is not None and output.count is not None:
            weighed.append(torch.stack([output.loss.float() * output.count, output.count]))
        if keep:
            parts.append(_part(kind, output, batch, place))
    sums: list[list[float]] = torch.stack(weighed).tolist() if weighed else []
    if shared:
        sums, parts = _of_all(sums), _of_all(parts)
    if not seen and not sums and not parts:
        raise ValueError(EMPTY)
    total = sum(count for _, count in sums)
    if sums and not total:
        raise ValueError(
            "every target is left out (-100, or a target_mask of False): there is nothing to "
            "evaluate"
        )
    loss = sum(loss for loss, _ in sums) / total if sums else None
    return loss, _whole(parts, kind) if keep else (torch.empty(0), None, None)


def _of_all(mine: list[Answer]) -> list[Answer]:
    """The lists of all processes, joined into one."""
    return [one for theirs in distributed.gather(mine) for one in theirs]


def _part(kind: str | None, output: Output, batch: Batch, place: Tensor) -> Part:
    """One batch's share of the answer."""
    logits, target, row = output.logits.float().cpu(), batch.get("target"), batch.get("row")
    target, row = (None if x is None else x.cpu() for x in (target, row))
    if kind != "sequence" and (kind is not None or "target_mask" not in batch):
        return Part(place, logits, target, row)
    if target is None:
        raise ValueError(
            f"logits are {tuple(logits.shape)}, a sequence: batch['target'] and its mask are "
            "needed to know which positions are real"
        )
    mask = batch["target_mask"].cpu()
    if logits.shape[1] == target.shape[1] - 1:  # each position predicts the next one
        target, mask = target[:, 1:], mask[:, 1:]
    if logits.shape[1] != target.shape[1]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not have the same "
            "positions; decode the logits first: the metrics of such a model need a loop of "
            "their own"
        )
    place = place[:, None].expand(mask.shape)[mask]
    return Part(place, logits[mask], target[mask], None)


def _whole(parts: list[Part], kind: str | None) -> Whole:
    """The answers to all batches put together: one line per sample, or per row."""
    shapes = sorted({tuple(part.logits.shape[1:]) for part in parts})
    if len(shapes) > 1:
        raise ValueError(
            f"the logits of a sample are {shapes[0]} in one batch and {shapes[1]} in another, so "
            "they cannot be put together; score such a model in a loop of your own"
        )
    order = torch.cat([part.place for part in parts]).argsort(stable=True)
    logits = torch.cat([part.logits for part in parts])[order]
    target = _optional("target", [part.target for part in parts], order)
    row = _optional("row", [part.row for part in parts], order)
    return (logits, target, None) if row is None else one_per_row(logits, target, row, kind)


def _optional(name: str, parts: Sequence[Tensor | None], order: Tensor) -> Tensor | None:
    """The parts of a key put together and in ``order``; None where no batch has it."""
    there = [part for part in parts if part is not None]
    if there and len(there) < len(parts):
        raise ValueError(
            f"{len(there)} of {len(parts)} batches have a {name!r}: give it in all, or in none"
        )
    return torch.cat(there)[order] if there else None


def _compared(
    model: Comparing,
    answers: Iterable[tuple[Tensor, Batch, Pairs]],
    shared: bool,
    keep: bool,
    device: torch.device,
) -> tuple[float, Whole]:
    """The mean loss of all queries against all keys, computed in chunks, and the whole answer."""
    parts = []
    for place, batch, (query, key, present, item) in answers:
        item, row = (None if x is None else x.cpu() for x in (item, batch.get("row")))
        parts.append(Vectors(place, (query.cpu(), key.cpu(), present.cpu(), item), row))
    parts = _of_all(parts) if shared else parts
    if not parts:
        raise ValueError(EMPTY)
    (query, key, present, item), row = _all_pairs(parts)
    if not present.any():
        raise ValueError("no row has both query and key: there is nothing to evaluate")
    loss, logits = 0.0, []
    item = None if item is None else item.to(device)
    pairs = query.to(device), key.to(device), present.to(device), item
    for start in range(0, len(present), CHUNK):
        output = model.compare(pairs, slice(start, start + CHUNK))
        if output.loss is not None and output.count is not None:
            loss += float(output.loss * output.count)
        logits += [output.logits.cpu()] if keep else []
    target = torch.arange(len(present)).masked_fill(~present, -100)
    whole = torch.cat(logits) if keep else torch.empty(0)
    return loss / int(present.sum()), (whole, target, row)


def _all_pairs(parts: list[Vectors]) -> tuple[Pairs, Tensor | None]:
    """The vectors of the whole set, and its rows.

    A row's vector is the mean of its windows' vectors, scaled to length 1 again.
    """
    order = torch.cat([part.place for part in parts]).argsort(stable=True)
    query = torch.cat([part.pairs[0] for part in parts])[order]
    key = torch.cat([part.pairs[1] for part in parts])[order]
    present = torch.cat([part.pairs[2] for part in parts])[order]
    item = _optional("item_id", [part.pairs[3] for part in parts], order)
    row = _optional("row", [part.row for part in parts], order)
    if row is None:
        return (query, key, present, item), None
    rows, place = row.unique(return_inverse=True)
    query, key = (
        F.normalize(x.new_zeros(len(rows), x.shape[1]).index_add(0, place, x), dim=-1)
        for x in (query, key)
    )
    present = torch.zeros_like(rows).index_add(0, place, present.long()) > 0
    item = None if item is None else item[first_windows(place, rows)]
    return (query, key, present, item), rows
