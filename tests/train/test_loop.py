"""The loop: weights of short batches, early stopping, precision, and evaluation of whole sets.

Errors say what to do.
"""

import copy
import inspect
import math
import re
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib import Recipe, load_data
from mmlib import machine as memory
from mmlib.cli.main import parser
from mmlib.core import Batch, Output, masked_mean
from mmlib.encoders import RecurrentEncoder
from mmlib.fusion.vectors import SumFusion
from mmlib.heads.classify import ClassifyHead
from mmlib.machine import keep_freed_memory
from mmlib.models import Backbone, Model
from mmlib.train import checkpoint, distributed
from mmlib.train import log as train_log
from mmlib.train.config import TrainConfig
from mmlib.train.evaluate import collect, evaluate
from mmlib.train.log import Log
from mmlib.train.loop import fit
from mmlib.train.optimizer import adamw, divide_and_clip, lr_at, lr_factor

CPU = TrainConfig(epochs=3, device="cpu", progress=False, warmup=0.1, lr=1e-2)


class Tiny(nn.Module):
    """An image and words -> 3 classes; with ``words`` a class for each word (ragged targets)."""

    def __init__(self, words: bool = False, dropout: float = 0.0):
        super().__init__()
        torch.manual_seed(1)
        self.kind, self.classes = "sequence" if words else "classes", 3
        self.words, self.see, self.read = words, nn.Conv2d(3, 8, 3, padding=1), nn.Embedding(10, 8)
        self.norm, self.drop, self.head = nn.LayerNorm(8), nn.Dropout(dropout), nn.Linear(8, 3)

    def forward(self, batch: Batch) -> Output:
        columns = batch["image_mask"]  # (B, W)
        image = masked_mean(
            F.relu(self.see(batch["image"])).mean(2).transpose(1, 2), columns
        )  # (B, D)
        words = self.read(batch["text"])  # (B, T, D)
        mixed = (
            words + image[:, None] if self.words else masked_mean(words, batch["text_mask"]) + image
        )
        logits = self.head(self.drop(self.norm(mixed)))  # (B, K) or (B, T, K)
        if "target" not in batch:
            return Output(logits, None, None)
        mask = (
            batch["target_mask"]
            if self.words
            else torch.ones_like(batch["target"], dtype=torch.bool)
        )
        count = mask.sum().float()
        target = batch["target"].masked_fill(~mask, -100)
        return Output(
            logits,
            F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="sum")
            / count.clamp(min=1),
            count,
        )


class Number(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch: Batch) -> Output:
        logits = self.linear(batch["image"].mean((2, 3))).squeeze(1)
        if "target" not in batch:
            return Output(logits, None, None)
        return Output(logits, F.mse_loss(logits, batch["target"]), torch.tensor(float(len(logits))))


def sample_batch(size: int, seed: int = 0, words: bool = False) -> Batch:
    """Samples in turn: full, ragged, without image, words only and few of them."""
    draw = torch.Generator().manual_seed(seed)
    kind, lengths = torch.arange(size) % 4, torch.tensor([6, 3, 6, 1])
    text_mask = torch.arange(6) < lengths[kind][:, None]
    image_mask = (kind < 2)[:, None].expand(size, 5)
    image = torch.randn(size, 3, 4, 5, generator=draw) * image_mask[:, None, None]
    text = torch.randint(1, 10, (size, 6), generator=draw) * text_mask
    batch = {"image": image, "image_mask": image_mask, "text": text, "text_mask": text_mask}
    if words:
        return batch | {"target": text % 3, "target_mask": text_mask}
    return batch | {"target": text[:, 0] % 3}


def cut(batch: Batch, size: int) -> list[Batch]:
    return [
        dict(zip(batch, parts, strict=True))
        for parts in zip(*(value.split(size) for value in batch.values()), strict=True)
    ]


def same(a: dict[str, Tensor], b: dict[str, Tensor], **tolerance: float) -> None:
    torch.testing.assert_close(dict(a), dict(b), **tolerance)


def accuracy(logits: Tensor, target: Tensor) -> float:
    return float((logits.argmax(-1) == target).float().mean())


def without_seconds(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.mark.parametrize("words", [False, True], ids=["classes", "ragged targets"])
@pytest.mark.parametrize("clip", [math.inf, 0.05])
def test_accumulating_small_batches_is_one_large_batch(words, clip):
    """Parts of 5, 5 and 1 samples: a mean of means would weigh the last one five times too much."""
    whole, config = sample_batch(11, words=words), replace(CPU, clip=clip, epochs=6)
    one, many = Tiny(words), Tiny(words)
    a = fit(one, [whole], config=config)
    b = fit(many, cut(whole, 5), config=replace(config, accumulate=4))
    torch.testing.assert_close(
        [row["loss"] for row in a], [row["loss"] for row in b], rtol=1e-5, atol=1e-6
    )
    same(one.state_dict(), many.state_dict(), rtol=1e-4, atol=1e-5)
    assert [row["step"] for row in b] == [1, 2, 3, 4, 5, 6]


def test_a_step_is_that_of_a_bare_loop():
    """The reference: torch's clip_grad_norm_ and AdamW (not fused), the schedule written out."""
    batches, mine, bare = cut(sample_batch(12), 4), Tiny(), Tiny()
    fit(mine, batches, config=replace(CPU, clip=0.3, weight_decay=0.5))
    decayed = [p for p in bare.parameters() if p.ndim >= 2]
    plain = [p for p in bare.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.5}, {"params": plain, "weight_decay": 0.0}],
        fused=False,
    )
    for step in range(9):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 if step == 0 else 1e-2 * (1 + math.cos(math.pi * (step - 1) / 8)) / 2
        optimizer.zero_grad()
        bare(batches[step % 3]).loss.backward()
        nn.utils.clip_grad_norm_(bare.parameters(), 0.3)
        optimizer.step()
    same(mine.state_dict(), bare.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clip", [0.01, 0.5, 5.0, math.inf])
def test_clipping_is_torchs_on_the_mean_gradient(clip):
    """On the gradient itself: AdamW hardly sees a constant factor."""
    mine, theirs, batch = Tiny(), Tiny(), sample_batch(12)
    (mine(batch).loss * 12).backward()
    theirs(batch).loss.backward()
    divide_and_clip(list(mine.parameters()), torch.tensor(12.0), clip)
    nn.utils.clip_grad_norm_(theirs.parameters(), clip)
    same(
        *({name: p.grad for name, p in model.named_parameters()} for model in (mine, theirs)),
        rtol=1e-5,
        atol=1e-7,
    )


def test_the_learning_rate_rises_then_falls_to_zero():
    config = TrainConfig(lr=0.1, warmup=0.2)
    rates = [lr_at(step, 100, config) for step in range(100)]
    assert rates.index(max(rates)) in (19, 20) and max(rates) == pytest.approx(0.1)
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[0] < 0.01 and 0 < rates[-1] < 1e-3
    assert lr_at(0, 1, TrainConfig(warmup=0.0)) == TrainConfig().lr


def test_every_trained_parameter_is_in_one_group_and_only_matrices_decay():
    model = Tiny()
    model.see.weight.requires_grad_(False)
    groups = adamw(model, CPU).param_groups
    assert sum(len(group["params"]) for group in groups) == sum(
        p.requires_grad for p in model.parameters()
    )
    assert all(
        (p.ndim >= 2) == (group["weight_decay"] > 0) for group in groups for p in group["params"]
    )


def overfitting(epochs: int, **changes) -> tuple[Tiny, list[dict], list[Batch]]:
    """Training targets that are the opposite of the validation targets.

    So the val loss gets worse from the first epoch on.
    """
    train, val = cut(sample_batch(12), 4), cut(sample_batch(12), 5)
    for batch in val:
        batch["target"] = (batch["target"] + 1) % 3
    model = Tiny()
    return (
        model,
        fit(
            model,
            train,
            val,
            replace(CPU, epochs=epochs, lr=0.03, **changes),
            {"accuracy": accuracy},
        ),
        val,
    )


def test_early_stopping_restores_the_best_weights():
    model, history, val = overfitting(epochs=20, patience=2)
    losses = [row["val_loss"] for row in history]
    assert len(history) == losses.index(min(losses)) + 3 < 20
    assert evaluate(model, val, device="cpu")["loss"] == pytest.approx(min(losses), abs=1e-6)
    assert min(losses) < losses[-1]
    assert not model.training


def test_a_score_that_should_be_large_is_monitored_as_such():
    model, history, val = overfitting(epochs=6, monitor="max val_accuracy")
    best = max(row["val_accuracy"] for row in history)
    assert best > history[-1]["val_accuracy"]
    assert evaluate(model, val, {"accuracy": accuracy}, "cpu")["accuracy"] == pytest.approx(best)


def test_the_best_weights_are_a_copy_also_without_a_folder():
    """A reference to the living weights would be 'restored' to the last ones."""
    model, history, val = overfitting(epochs=5)
    assert evaluate(model, val, device="cpu")["loss"] == pytest.approx(
        min(row["val_loss"] for row in history), abs=1e-6
    )


def test_same_seed_same_result_and_another_seed_another():
    def trained(seed: int) -> dict[str, Tensor]:
        model = Tiny(dropout=0.5)
        torch.manual_seed(torch.randint(1000, ()).item())  # whatever was drawn before
        fit(model, cut(sample_batch(8), 4), config=replace(CPU, seed=seed))
        return model.state_dict()

    a, b, c = trained(0), trained(0), trained(1)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_dropout_differs_from_epoch_to_epoch():
    model = Tiny(dropout=0.5)
    history = fit(model, [sample_batch(8)], config=replace(CPU, lr=1e-12, epochs=4))
    assert len({row["loss"] for row in history}) == 4


def test_bf16_on_cpu_is_finite_and_close():
    batches = cut(sample_batch(12), 4)
    full, half = (
        fit(Tiny(), batches, batches, replace(CPU, precision=p)) for p in ("fp32", "bf16")
    )
    assert full[-1]["loss"] != half[-1]["loss"]
    torch.testing.assert_close(
        [row["val_loss"] for row in half], [row["val_loss"] for row in full], rtol=0.03, atol=0.02
    )
    assert (
        fit(Tiny(), batches, config=CPU)[-1]["loss"] == full[-1]["loss"]
    )  # "auto" on a CPU is fp32


def test_channels_last_changes_nothing_but_the_layout():
    batches, seen = cut(sample_batch(12), 4), []
    models = [Tiny(), Tiny()]
    for model, last in zip(models, [True, False], strict=True):
        model.see.register_forward_hook(
            lambda m, x, y: seen.append(x[0].is_contiguous(memory_format=torch.channels_last))
        )
        fit(model, batches, config=replace(CPU, channels_last=last))
        assert model.see.weight.is_contiguous(memory_format=torch.channels_last) == last
    assert any(seen[1:10]) and not any(seen[len(seen) // 2 + 1 :])
    same(models[0].state_dict(), models[1].state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_a_compiled_model_trains_alike():
    batches = cut(sample_batch(12), 4)
    plain, compiled = (
        fit(Tiny(), batches, batches, replace(CPU, compile=flag)) for flag in (False, True)
    )
    torch.testing.assert_close(
        [row["val_loss"] for row in plain],
        [row["val_loss"] for row in compiled],
        rtol=1e-4,
        atol=1e-5,
    )


def test_frozen_parts_stay_as_they_are():
    model = Tiny()
    model.see.requires_grad_(False)
    before = model.see.weight.clone()
    fit(model, [sample_batch(8)], config=replace(CPU, weight_decay=0.5))
    assert torch.equal(before, model.see.weight)


def test_plain_lists_and_dataloaders_are_loaders():
    rows = [{key: value[0] for key, value in one.items()} for one in cut(sample_batch(8), 1)]
    loader = torch.utils.data.DataLoader(rows, batch_size=4, shuffle=True)
    assert (
        fit(Tiny(), loader, loader, CPU)[-1]["loss"] < fit(Tiny(), loader, loader, CPU)[0]["loss"]
    )


# ---- errors


def message(error: type[Exception], call) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("epochs", 0),
        ("lr", 0.0),
        ("lr", math.nan),
        ("weight_decay", -1.0),
        ("warmup", 1.5),
        ("clip", 0.0),
        ("accumulate", 0),
        ("patience", -1),
        ("checkpoint_every", -1),
        ("precision", "fp16"),
        ("distributed", "dp"),
        ("monitor", "val_loss"),
        ("monitor", "max accuracy"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(name, value):
    text = message(ValueError, lambda: TrainConfig(**{name: value}))
    assert name in text and repr(value) in text and "expected" in text


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("once_a_day", [False, True])
def test_a_loss_that_is_not_finite_is_named_by_step_batch_and_key(every, once_a_day, monkeypatch):
    """Also when losses are read only at the end of the epoch."""
    monkeypatch.setattr(Log, "EVERY", 1e5 if once_a_day else 0.0)
    batches = cut(sample_batch(24), 4)
    batches[4]["image"][1, 0, 0, 0] = math.nan
    text = message(ValueError, lambda: fit(Tiny(), batches, config=replace(CPU, accumulate=every)))
    assert f"step {5 if every == 1 else 3} " in text
    assert "epoch 1, batch 4" in text and "['image'], sample 1" in text and "learning rate" in text


def test_a_target_that_is_not_finite_is_found_and_a_large_lr_is_suspected():
    batches = [{**sample_batch(4), "target": torch.tensor([1.0, 2.0, math.inf, 0.0])}]
    assert "'target'" in message(ValueError, lambda: fit(Number(), batches, config=CPU))
    batches = [{**sample_batch(4), "target": torch.tensor([1.0, 2.0, 3.0, 0.0])}] * 4
    text = message(
        ValueError, lambda: fit(Number(), batches, config=replace(CPU, lr=1e30, clip=math.inf))
    )
    assert "lower lr" in text and "1e+30" in text


def test_no_checkpoint_is_written_from_a_broken_model(tmp_path):
    batches = cut(sample_batch(16), 4)
    batches[2]["image"][0] = math.nan
    message(
        ValueError,
        lambda: fit(Tiny(), batches, config=replace(CPU, checkpoint_every=1), out=tmp_path),
    )
    assert all(value.isfinite().all() for value in checkpoint.load(tmp_path)["model"].values())
    assert checkpoint.load(tmp_path)["batch"] == 2


class Breaks(nn.Module):
    """A finite loss whose gradient is NaN: sqrt at 0, from the given training step on."""

    def __init__(self, at: int):
        super().__init__()
        self.weight, self.left = nn.Parameter(torch.ones(3)), at

    def forward(self, batch: Batch) -> Output:
        self.left -= self.training and torch.is_grad_enabled()
        logits = batch["image"].mean((2, 3)) * self.weight
        zero = (self.weight.sum() * 0).sqrt() if self.training and self.left < 0 else 0.0
        return Output(
            logits,
            F.cross_entropy(logits, batch["target"]) + zero,
            torch.tensor(float(len(logits))),
        )


@pytest.mark.parametrize("clip", [1.0, math.inf])
@pytest.mark.parametrize("val", [True, False])
def test_a_gradient_that_breaks_under_a_finite_loss_in_the_last_step_is_an_error(
    tmp_path, clip, val
):
    """Neither the checkpoint nor the model is broken: the weights are those of the epoch before."""
    batches, model = cut(sample_batch(12), 4), Breaks(at=8)  # nine steps
    val_batches = [sample_batch(8)] if val else None
    text = message(
        ValueError,
        lambda: fit(
            model, batches, val_batches, replace(CPU, clip=clip, progress=False), out=tmp_path
        ),
    )
    assert (
        "the gradient is not finite at step 9 (epoch 3, batch 2" in text
        and "set_detect_anomaly" in text
    )
    rate = CPU.lr * lr_factor(8, 3 * CPU.epochs, CPU)
    assert f"learning rate {rate:.3g})" in text
    saved = checkpoint.load(tmp_path)
    assert saved["epoch"] == 2 and all(
        value.isfinite().all() for name in ("model", "best") for value in saved[name].values()
    )
    assert torch.equal(model.weight, saved["best"]["weight"]) and not torch.equal(
        model.weight, torch.ones(3)
    )


@pytest.mark.parametrize("clip", [1.0, math.inf])
def test_a_first_epoch_that_diverges_leaves_the_weights_of_the_start(clip):
    for batches in (
        [{**sample_batch(4), "target": torch.tensor([1.0, 2.0, 3.0, 0.0])}] * 4,
        cut(sample_batch(16), 4),
    ):
        model = Number() if batches[0]["target"].is_floating_point() else Breaks(at=2)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        message(
            ValueError,
            lambda model=model, batches=batches: fit(
                model,
                batches,
                config=replace(CPU, lr=1e30 if isinstance(model, Number) else 1e-2, clip=clip),
            ),
        )
        assert not model.training
        same(model.state_dict(), before, rtol=0, atol=0)


class Overshoots(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1e30).mul_(1e30)


def test_a_last_step_that_makes_the_weights_infinite_is_an_error_and_is_not_saved(tmp_path):
    """Loss and gradient are finite; the step itself is too long."""
    model = Tiny()
    text = message(
        ValueError,
        lambda: fit(
            model,
            [sample_batch(8)],
            config=replace(CPU, epochs=1),
            out=tmp_path,
            optimizer=lambda model, config: Overshoots(model.parameters(), lr=1.0),
        ),
    )
    assert "weight 'see.weight' is not finite after step 1" in text and not checkpoint.exists(
        tmp_path
    )
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_the_loss_of_an_epoch_is_the_mean_over_its_targets_not_over_its_steps():
    """A short last batch: three steps of 5, 5 and 1 samples.

    The rate is so small that the model stays what it is.
    """
    whole, model = sample_batch(11), Tiny()
    expected = evaluate(model, [whole], device="cpu")["loss"]
    parts = [evaluate(model, [part], device="cpu")["loss"] for part in cut(whole, 5)]
    history = fit(model, cut(whole, 5), config=replace(CPU, epochs=1, lr=1e-12))
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-5) and history[0][
        "loss"
    ] != pytest.approx(sum(parts) / 3, rel=1e-3)


# ---- an optimizer of one's own, and a look after each epoch


def two_groups(kind):
    """A function for ``fit``: the head learns at a rate of its own."""

    def make(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        head = list(model.head.parameters())
        rest = [p for p in model.parameters() if not any(p is one for one in head)]
        return kind([{"params": rest}, {"params": head, "lr": 0.05}], lr=0.01)

    return make


@pytest.mark.parametrize(
    "kind",
    [
        lambda groups, lr: torch.optim.SGD(groups, lr, momentum=0.9),
        torch.optim.Adafactor,
        torch.optim.NAdam,
    ],
    ids=["SGD", "Adafactor", "NAdam"],
)
def test_an_own_optimizer_steps_as_in_a_bare_loop_and_the_schedule_multiplies_each_groups_rate(
    kind,
):
    batches, mine, bare, rates = cut(sample_batch(12), 4), Tiny(), Tiny(), []
    fit(
        mine,
        batches,
        config=replace(CPU, clip=math.inf, lr=99.0, weight_decay=99.0),
        optimizer=two_groups(kind),
    )
    optimizer = two_groups(kind)(bare, CPU)
    for step in range(9):
        factor = 1.0 if step == 0 else (1 + math.cos(math.pi * (step - 1) / 8)) / 2
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = (
            0.01 * factor,
            0.05 * factor,
        )
        rates.append(factor)
        optimizer.zero_grad()
        bare(batches[step % 3]).loss.backward()
        optimizer.step()
    same(mine.state_dict(), bare.state_dict(), rtol=1e-4, atol=1e-5)
    assert [lr_factor(step, 9, CPU) for step in range(9)] == pytest.approx(rates)


def test_the_factor_of_the_schedule_lies_between_0_and_1_and_lr_at_is_the_highest_rate_times_it():
    config = TrainConfig(lr=0.3, warmup=0.2)
    for step in range(50):
        factor = lr_factor(step, 50, config)
        assert 0 < factor <= 1 and lr_at(step, 50, config) == 0.3 * factor
    assert lr_factor(10, 50, config) == 1


def test_what_is_no_optimizer_of_this_model_is_refused_with_an_example():
    batches, model, other = [sample_batch(4)], Tiny(), Tiny()
    cases = [
        ("a SGD, expected a function (model, config)", torch.optim.SGD(model.parameters(), 0.1)),
        ("a str, expected a function", "sgd"),
        ("returned None, expected a torch.optim.Optimizer", lambda model, config: None),
        ("not one of the model's", lambda model, config: torch.optim.SGD(other.parameters(), 0.1)),
    ]
    for expected, optimizer in cases:
        assert expected in message(
            ValueError,
            lambda optimizer=optimizer: fit(model, batches, config=CPU, optimizer=optimizer),
        )


def test_after_each_epoch_the_row_and_the_model_are_there_and_true_stops():
    rows, model = [], Tiny()

    def look(row: dict, seen: nn.Module) -> bool | None:
        assert seen is model and {
            "epoch",
            "step",
            "lr",
            "loss",
            "val_loss",
            "val_accuracy",
            "seconds",
        } == set(row)
        rows.append(row)
        return True if row["epoch"] == 2 else None

    history = fit(
        model,
        [sample_batch(8)],
        [sample_batch(8)],
        replace(CPU, epochs=9),
        {"accuracy": accuracy},
        after_epoch=look,
    )
    assert rows == history and len(history) == 2 and not model.training
    rows[0]["loss"] = None  # a copy: the history stays what it is
    assert history[0]["loss"] is not None


def test_a_loader_without_a_length_is_refused_in_words_for_training_and_read_for_val():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from (
                {key: value[0] for key, value in one.items()} for one in cut(sample_batch(8), 1)
            )

    stream = torch.utils.data.DataLoader(Stream(), batch_size=4)
    assert "a DataLoader, has no length" in message(
        ValueError, lambda: fit(Tiny(), stream, config=CPU)
    )
    history = fit(Tiny(), [sample_batch(8)], stream, CPU)
    assert [row["val_loss"] for row in history] == pytest.approx(
        [row["val_loss"] for row in fit(Tiny(), [sample_batch(8)], [sample_batch(8)], CPU)]
    )


@pytest.mark.parametrize("use", ["fit", "evaluate"])
def test_a_list_or_a_single_number_in_a_batch_is_named(use):
    for key, value in {"ids": ["a", "b", "c", "d"], "scale": torch.tensor(2.0)}.items():
        batches = [sample_batch(4) | {key: value}]
        text = message(
            ValueError,
            lambda batches=batches: (
                fit(Tiny(), batches, config=CPU)
                if use == "fit"
                else evaluate(Tiny(), batches, device="cpu")
            ),
        )
        assert f"batch[{key!r}] is a " in text and "leave the key out" in text


def test_the_advice_when_memory_is_out_names_only_what_is_there():
    """Every name in it is a field, an argument or an option of the place where it happened."""

    class Full(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, batch: Batch) -> Output:
            raise torch.OutOfMemoryError("CUDA out of memory")

    while_training = message(torch.OutOfMemoryError, lambda: _enough(Full(), True))
    while_asking = message(
        torch.OutOfMemoryError, lambda: evaluate(Full(), [sample_batch(4)], device="cpu")
    )
    parts = {
        "load_data": inspect.signature(load_data).parameters,
        "Recipe": inspect.signature(Recipe).parameters,
        "TrainConfig": inspect.signature(TrainConfig).parameters,
    }
    for text in (while_training, while_asking):
        named = re.findall(r"(\w+)\((\w+)=", text)
        assert (
            named
            and all(argument in parts[name] for name, argument in named)
            and "4 samples" in text
        )
    assert (
        "device" in inspect.signature(evaluate).parameters
        and "device='cpu'" in while_asking
        and "Recipe" not in while_asking
    )
    parser().parse_args(
        ["train", "m.csv", *re.search(r"train (--batch-size)", while_training).groups(), "8"]
    )


def _enough(model: nn.Module, grad: bool) -> None:
    with torch.set_grad_enabled(grad), memory.explaining_out_of_memory(sample_batch(4)):
        model(sample_batch(4))


def test_each_mistake_says_what_to_do(tmp_path):
    good, frozen = [sample_batch(4)], Tiny().requires_grad_(False)
    wrong = {**good[0], "target": torch.tensor([0, 1, 3, 2])}
    negative = {**good[0], "target": torch.tensor([0, -1, 1, 2])}
    blind = {key: value for key, value in good[0].items() if key != "target"}
    cases = [
        ("train loader is empty", lambda: fit(Tiny(), [], config=CPU)),
        ("val loader is empty", lambda: fit(Tiny(), good, [], CPU)),
        ("unfreeze", lambda: fit(frozen, good, config=CPU)),
        ("sample 2: 3, expected a class from 0 to 2", lambda: fit(Tiny(), [wrong], config=CPU)),
        (
            "sample 2: 3, expected a class from 0 to 2",
            lambda: fit(Tiny(), good + [wrong], config=CPU),
        ),
        ("sample 1: -1", lambda: fit(Tiny(), [negative], config=CPU)),
        ("'target' missing", lambda: fit(Tiny(), [blind], config=CPU)),
        ("out=FOLDER", lambda: fit(Tiny(), good, config=CPU, resume=True)),
        ("out=FOLDER", lambda: fit(Tiny(), good, config=replace(CPU, tensorboard=True))),
        ("give val", lambda: fit(Tiny(), good, config=CPU, metrics={"accuracy": accuracy})),
        (
            "['val_loss', 'val_accuracy']",
            lambda: fit(
                Tiny(), good, good, replace(CPU, monitor="max val_f1"), {"accuracy": accuracy}
            ),
        ),
        (
            "plain data",
            lambda: fit(Tiny(), good, config=CPU, out=tmp_path, extra={"vocabulary": {1, 2}}),
        ),
        (
            "val_odd is nan",
            lambda: fit(
                Tiny(),
                good,
                good,
                replace(CPU, monitor="max val_odd"),
                {"odd": lambda logits, target: math.nan},
            ),
        ),
        ("collect(model, loader)", lambda: evaluate(Tiny(), [blind], device="cpu")),
        ("empty", lambda: evaluate(Tiny(), [], device="cpu")),
    ]
    for expected, call in cases:
        assert expected in message(ValueError, call)


def test_tensorboard_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    text = message(
        ImportError,
        lambda: fit(Tiny(), [sample_batch(4)], config=replace(CPU, tensorboard=True), out=tmp_path),
    )
    assert "mmlib[tensorboard]" in text


def test_tensorboard_gets_every_score_of_every_epoch(tmp_path, monkeypatch):
    written = []

    class Writer:
        def add_scalar(self, name, value, step):
            written.append((name, step))

        def flush(self):
            pass

        close = flush

    monkeypatch.setattr(train_log, "_writer", lambda folder, step: Writer())
    fit(Tiny(), [sample_batch(4)], [sample_batch(4)], replace(CPU, tensorboard=True), out=tmp_path)
    assert [step for name, step in written if name == "val_loss"] == [1, 2, 3]


# ---- evaluation


def test_the_loss_of_a_set_is_that_of_one_batch_of_everything():
    for words in (False, True):
        model, whole = Tiny(words).eval(), sample_batch(11, words=words)
        with torch.no_grad():
            expected = model(whole).loss.item()
        assert evaluate(model, cut(whole, 4), device="cpu")["loss"] == pytest.approx(
            expected, rel=1e-5
        )


def test_metrics_see_the_whole_set_in_order_and_the_mode_is_given_back():
    model, whole = Tiny(dropout=0.5), sample_batch(11)
    logits, target, rows = collect(model, cut(whole, 4), "cpu")
    assert model.training and torch.equal(target, whole["target"]) and rows is None
    torch.testing.assert_close(logits, model.eval()(whole).logits.detach())
    assert (
        evaluate(model, cut(whole, 4), {"n": lambda logits, target: len(logits)}, "cpu")["n"] == 11
    )


def test_sequences_are_flattened_over_real_positions():
    model, whole = Tiny(words=True).eval(), sample_batch(7, words=True)
    logits, target, _ = collect(model, cut(whole, 3), "cpu")
    assert torch.equal(target, whole["target"][whole["target_mask"]])
    torch.testing.assert_close(logits, model(whole).logits.detach()[whole["target_mask"]])
    assert evaluate(model, cut(whole, 3), {"accuracy": accuracy}, "cpu")[
        "accuracy"
    ] == pytest.approx(accuracy(logits, target))


class Given(nn.Module):
    """Says what the batch says."""

    def __init__(self, kind: str | None = None):
        super().__init__()
        self.kind = kind

    def forward(self, batch: Batch) -> Output:
        return Output(batch["says"], torch.zeros(()) if "target" in batch else None, torch.ones(()))


def test_logits_that_predict_the_next_word_stand_beside_the_next_word_and_others_are_refused():
    target, mask = (
        torch.tensor([[7, 1, 2], [7, 2, 0]]),
        torch.tensor([[True] * 3, [True, True, False]]),
    )
    logits, words, _ = collect(
        Given(),
        [{"says": F.one_hot(target[:, 1:], 8).float(), "target": target, "target_mask": mask}],
        "cpu",
    )
    assert words.tolist() == [1, 2, 2] and logits.argmax(-1).tolist() == [1, 2, 2]
    frames = {"says": torch.zeros(2, 9, 8), "target": target, "target_mask": mask}
    assert "decode" in message(ValueError, lambda: collect(Given(), [frames], "cpu"))


def test_windows_of_a_row_are_averaged_as_probabilities_and_weigh_once():
    """Row 5 has three windows: two say weakly 1, one says strongly 0.

    Two batches, rows out of order.
    """
    chance = torch.tensor([[0.45, 0.55], [0.3, 0.7], [0.4, 0.6], [0.95, 0.05], [0.8, 0.2]])
    row, target = torch.tensor([5, 9, 5, 5, 2]), torch.tensor([0, 1, 0, 0, 1])
    batches = cut({"says": chance.log() + 3, "row": row, "target": target}, 3)
    logits, classes, rows = collect(Given("classes"), batches, "cpu")
    assert rows.tolist() == [2, 5, 9] and classes.tolist() == [1, 0, 1]
    torch.testing.assert_close(
        logits.softmax(-1), torch.stack([chance[4], chance[[0, 2, 3]].mean(0), chance[1]])
    )
    assert evaluate(Given("classes"), batches, {"accuracy": accuracy}, "cpu")[
        "accuracy"
    ] == pytest.approx(2 / 3)
    torch.testing.assert_close(
        logits[0], batches[1]["says"][1]
    )  # a row of one window is left as it is
    numbers = {
        "says": torch.tensor([1.0, 4.0, 2.0]),
        "row": torch.tensor([3, 1, 3]),
        "target": torch.zeros(3),
    }
    assert collect(Given("number"), [numbers], "cpu")[0].tolist() == [4.0, 1.5]
    certain = {
        "says": torch.tensor([[200.0, -200.0], [200.0, -200.0]]),
        "row": torch.tensor([0, 0]),
    }
    assert collect(Given("classes"), [certain], "cpu")[0].isfinite().all()
    rare = {"says": torch.tensor([[14.0, 0.0], [16.0, 0.0]]), "row": torch.tensor([0, 0])}
    expected = rare["says"].double().softmax(-1).mean(0).log()
    torch.testing.assert_close(
        collect(Given("classes"), [rare], "cpu")[0][0].log_softmax(-1), expected.float()
    )


@pytest.mark.parametrize("kind", ["labels", "ordinal"])
@pytest.mark.parametrize(
    "target", [None, torch.tensor([[1, 0, 1]] * 3), torch.tensor([[1.0, 0.0, math.nan]] * 3)]
)
def test_windows_of_labels_are_averaged_as_probabilities_of_each_with_or_without_a_target(
    kind, target
):
    says = torch.tensor([[2.0, -1.0, 0.1], [-0.5, -2.0, 90.0], [0.3, 0.4, -200.0]])
    batch = {"says": says, "row": torch.tensor([4, 4, 7])} | (
        {} if target is None else {"target": target}
    )
    logits, _, rows = collect(Given(kind), [batch], "cpu")
    assert rows.tolist() == [4, 7]
    torch.testing.assert_close(logits[0].sigmoid(), says[:2].sigmoid().mean(0))
    assert torch.equal(logits[1], says[2]) and torch.equal(
        logits > 0, torch.stack([says[:2].sigmoid().mean(0) > 0.5, says[2] > 0])
    )
    certain = {
        "says": torch.tensor([[300.0], [300.0], [-300.0], [-300.0]]),
        "row": torch.tensor([0, 0, 1, 1]),
    }
    assert collect(Given(kind), [certain], "cpu")[0][:, 0].tolist() == pytest.approx(
        [300, -300], rel=1e-6
    )


def test_windows_of_a_model_that_does_not_say_its_kind_are_averaged_as_they_are():
    batch = {
        "says": torch.tensor([[2.0, -1.0], [4.0, 1.0]]),
        "row": torch.tensor([0, 0]),
        "target": torch.tensor([1, 1]),
    }
    assert collect(Given(), [batch], "cpu")[0].tolist() == [[3.0, 0.0]]


def test_logits_that_cannot_be_put_together_are_named():
    batches = [{"says": torch.zeros(4, 4)}, {"says": torch.zeros(3, 3)}]
    assert "(3,) in one batch and (4,) in another" in message(
        ValueError, lambda: collect(Given(), batches, "cpu")
    )


class Own(nn.Module):
    """A head of one's own on the mean of the image."""

    def __init__(self, kind: str | None, logits: int, classes: int | None, loss):
        super().__init__()
        self.kind, self.classes, self.linear, self.loss = kind, classes, nn.Linear(3, logits), loss

    def forward(self, batch: Batch) -> Output:
        logits = self.linear(batch["image"].mean((2, 3)))
        return (
            Output(logits, self.loss(logits, batch["target"]), torch.tensor(float(len(logits))))
            if "target" in batch
            else Output(logits, None, None)
        )


def ordinal(classes: int | None = 10) -> Own:
    levels = lambda logits, target: F.binary_cross_entropy_with_logits(  # noqa: E731
        logits, (target[:, None] > torch.arange(9)).float()
    )
    return Own("ordinal", 9, classes, levels)


def labels() -> Own:
    return Own(
        "labels",
        4,
        4,
        lambda logits, target: F.binary_cross_entropy_with_logits(
            logits[~target.isnan()], target[~target.isnan()]
        ),
    )


def test_an_ordinal_head_has_one_logit_less_than_classes_and_takes_them_all():
    batch = sample_batch(10) | {"target": torch.arange(10)}
    assert math.isfinite(fit(ordinal(), [batch], config=CPU)[-1]["loss"])
    wrong = batch | {"target": torch.arange(1, 11)}
    assert "sample 9: 10, expected a class from 0 to 9" in message(
        ValueError, lambda: fit(ordinal(), [wrong], config=CPU)
    )
    assert "attribute 'classes'" in message(
        ValueError, lambda: fit(ordinal(None), [batch], config=CPU)
    )


def test_a_target_is_what_the_kind_takes():
    image = sample_batch(2)
    for target in ([[1.0, 0.0, math.nan, 0.5]] * 2, [[0.0] * 4] * 2):
        fit(labels(), [image | {"target": torch.tensor(target)}], config=CPU)
    two = image | {"target": torch.tensor([[0.0] * 4, [0.0, 2.0, 0.0, 0.0]])}
    assert "sample 1: 2, expected 0 to 1" in message(
        ValueError, lambda: fit(labels(), [two], config=CPU)
    )
    number = Number()
    number.kind = "number"
    gap = image | {"target": torch.tensor([1.0, math.nan])}
    assert "sample 1: nan, expected a finite number" in message(
        ValueError, lambda: fit(number, [gap], config=CPU)
    )
    numbers = image | {"target": torch.tensor([1.0, 2.0])}
    assert "expected int64" in message(
        ValueError, lambda: fit(Own("classes", 3, 3, lambda z, y: z.sum()), [numbers], config=CPU)
    )
    odd = Own("klasses", 3, 3, lambda z, y: z.sum())
    assert "kind is 'klasses', expected one of" in message(
        ValueError, lambda: fit(odd, [numbers], config=CPU)
    )
    free = Own(None, 3, None, lambda z, y: z.square().mean())  # says nothing: nothing is checked
    fit(free, [image | {"target": torch.tensor([7, -3])}], config=CPU)


def test_minus_100_leaves_out_a_row_but_not_a_word():
    words, rows = sample_batch(4, words=True), sample_batch(4)
    bad = words["target"].clone()
    bad[0, 0] = -100
    text = message(ValueError, lambda: fit(Tiny(words=True), [words | {"target": bad}], config=CPU))
    assert "-100" in text and "target_mask says what is left out" in text
    bad = rows["target"].clone()
    bad[0], bad[2] = -100, 7
    text = message(ValueError, lambda: fit(Tiny(), [rows | {"target": bad}], config=CPU))
    assert "7" in text and "sample 2" in text and "-100 to leave the row out" in text


def test_left_out_targets_count_neither_in_training_nor_in_scores():
    """-100, as in F.cross_entropy: the same loss, weights and scores as without these rows."""
    model = lambda: Model(
        Backbone({"text": RecurrentEncoder(8, 10)}, SumFusion(8, ["text"])),  # noqa: E731
        ClassifyHead(8, 3, weight=torch.tensor([1.0, 2.0, 3.0])),
    )
    whole = sample_batch(12)
    out = torch.arange(12) % 3 == 1
    holes = whole | {"target": whole["target"].masked_fill(out, -100)}
    torch.manual_seed(0)
    one = model()
    two = copy.deepcopy(one)
    kept = {key: value[~out] for key, value in whole.items()}
    a, b = fit(one, [kept], config=CPU), fit(two, [holes], config=CPU)
    torch.testing.assert_close([row["loss"] for row in a], [row["loss"] for row in b])
    same(one.state_dict(), two.state_dict(), rtol=1e-4, atol=1e-5)
    scores = [
        evaluate(
            one,
            cut(batch, 5),
            {"accuracy": accuracy, "rows": lambda logits, target: len(target)},
            "cpu",
        )
        for batch in (kept, holes)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5) and scores[1]["rows"] == 8
    nothing = holes | {"target": torch.full((12,), -100)}
    assert "left out" in message(ValueError, lambda: evaluate(one, [nothing], device="cpu"))
    assert fit(one, [nothing, kept], config=CPU)[-1]["loss"] > 0  # a step of nothing is no harm


class Raises(Tiny):
    def forward(self, batch: Batch) -> Output:
        if not self.training:
            raise OSError("no such file")
        return super().forward(batch)


@pytest.mark.parametrize("call", [evaluate, collect])
def test_the_model_keeps_its_modes_and_its_place_whatever_happens(call):
    for model in (Tiny(dropout=0.5), Raises(dropout=0.5)):
        model.train()
        model.norm.eval()  # a frozen part of a model in training
        before = {name: part.training for name, part in model.named_modules()}
        try:
            call(model, [sample_batch(4)])
        except OSError:
            assert type(model) is Raises
        assert {name: part.training for name, part in model.named_modules()} == before


def test_auto_is_where_the_model_is(monkeypatch):
    """Evaluating must not carry the caller's model to the first device there is."""
    monkeypatch.setattr(
        distributed, "join", lambda device: torch.device("meta" if device == "auto" else device)
    )
    model = Tiny()
    assert (
        math.isfinite(evaluate(model, [sample_batch(4)])["loss"])
        and len(collect(model, [sample_batch(4)])[0]) == 4
    )
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_rows_numbered_from_zero_in_every_batch_are_refused_not_mixed():
    """``Preprocessing.batch`` numbers the rows of each batch from 0.

    Several such batches, with targets, would be averaged as windows of one row.
    """
    batches = [sample_batch(8, seed=seed) | {"row": torch.arange(8)} for seed in (0, 1)]
    with pytest.raises(
        ValueError, match=r"row \d+ has different targets.*number batch\['row'\] on"
    ):
        collect(Tiny(), batches, "cpu")
    with pytest.raises(ValueError, match="different targets"):
        evaluate(Tiny(), batches, {"first": lambda logits, target: 0.0}, "cpu")
    assert len(collect(Tiny(), [batches[0]], "cpu")[0]) == 8


def test_collect_predicts_without_targets():
    blind = {key: value for key, value in sample_batch(4).items() if key != "target"}
    logits, target, rows = collect(Tiny(), [blind], "cpu")
    assert (
        logits.shape == (4, 3) and target is None and rows is None and logits.dtype == torch.float32
    )


# ---- history


@pytest.mark.parametrize("key", ["target", "row"])
def test_a_key_that_only_some_batches_have_is_named(key):
    batches = [batch | {"row": torch.arange(4)} for batch in cut(sample_batch(8), 4)]
    some = [batches[0], {name: value for name, value in batches[1].items() if name != key}]
    with pytest.raises(ValueError, match=f"1 of 2 batches have a '{key}'"):
        collect(Tiny(), some, "cpu")


def test_the_history_plots_every_score_and_prints_as_a_table():
    batches = cut(sample_batch(8), 4)
    history = fit(Tiny(), batches, batches, CPU, {"accuracy": accuracy})
    axes = history.plot().axes
    lines = {
        (axis.get_title(), line.get_label()): list(line.get_ydata())
        for axis in axes
        for line in axis.get_lines()
        if line.get_label()[0] != "_"
    }
    columns = {
        ("loss", "training"): "loss",
        ("loss", "validation"): "val_loss",
        ("accuracy", "validation"): "val_accuracy",
    }
    assert set(lines) == set(columns)
    for place, name in columns.items():
        assert lines[place] == [row[name] for row in history]
    text = repr(history).splitlines()
    assert len(text) == 4 and len({len(line) for line in text}) == 1
    assert text[0].split() == list(history[0])
    empty = type(history)()
    assert "no epoch" in repr(empty) and "empty" in message(ValueError, empty.plot)


def test_keeping_freed_memory_says_what_it_did_and_is_undone():
    there = "nothing changed" not in keep_freed_memory()
    assert ("back again" in keep_freed_memory(False)) == there


@pytest.mark.parametrize("wanted, before", [(True, False), (True, True), (False, False)])
def test_fit_keeps_freed_memory_only_while_it_runs_and_only_if_allowed(monkeypatch, wanted, before):
    calls = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda keep=True: calls.append(keep))
    monkeypatch.setattr(memory, "_kept", before)
    with pytest.raises(ValueError, match="'target' missing"):
        blind = {key: value for key, value in sample_batch(4).items() if key != "target"}
        fit(Tiny(), [blind], config=replace(CPU, keep_freed_memory=wanted))
    assert calls == ([True, False] if wanted and not before else [])


def test_in_a_pipe_there_is_no_bar_and_when_asked_nothing(capfd):
    fit(Tiny(), [sample_batch(4)], config=replace(CPU, progress=True))
    out, err = capfd.readouterr()
    assert out == "" and "\r" not in err and err.count("epoch") == 3
    fit(Tiny(), [sample_batch(4)], config=CPU)
    assert "".join(capfd.readouterr()) == ""
