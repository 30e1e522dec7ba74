"""Two processes that share each batch train as one.

With ragged targets, an uneven last batch, accumulation, resume and fully_shard.
"""

import multiprocessing
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mmlib.core import Batch, Output, from_pooled
from mmlib.encoders import RecurrentEncoder
from mmlib.fusion.vectors import SumFusion
from mmlib.models import Backbone, TwoTower
from mmlib.train import checkpoint, distributed
from mmlib.train.evaluate import collect, evaluate
from mmlib.train.loop import _seed, _windows, fit
from mmlib.train.run import Progress
from mmlib.train.share import share
from tests.train.test_loop import CPU, Tiny, cut, sample_batch, without_seconds

CONFIG = replace(CPU, epochs=3, clip=0.5, accumulate=2)
KINDS = ("classes", "words", "list", "blocks", "fsdp", "softmax", "sigmoid")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
pytestmark = pytest.mark.skipif(
    not dist.is_available() or sys.platform == "win32", reason="this torch has no gloo"
)


class Shared:
    """A loader with ``shard``.

    The last of its four batches has a single sample: the second process has no share of it.
    """

    def __init__(self, words: bool, rank: int = 0, world: int = 1):
        self.words, self.rank, self.world, self.skip = words, rank, world, 0

    def __len__(self) -> int:
        return 4

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        self.skip = skip

    def shard(self, rank: int, world: int) -> "Shared":
        return Shared(self.words, rank, world)

    def __iter__(self):
        batches, self.skip = cut(sample_batch(22, words=self.words), 7)[self.skip :], 0
        for batch in batches:
            part = {key: value[self.rank :: self.world] for key, value in batch.items()}
            yield part if len(part["text"]) else None


class Blocks(nn.Module):
    """With an nn.ModuleList, for fully_shard to cut, and an odd number of weights."""

    def __init__(self):
        super().__init__()
        self.kind, self.classes = "sequence", 3
        self.tiny = Tiny(words=True)
        self.blocks = nn.ModuleList([nn.Linear(3, 3) for _ in range(2)])

    def forward(self, batch: Batch) -> Output:
        logits = self.tiny({key: value for key, value in batch.items() if key != "target"}).logits
        for block in self.blocks:
            logits = logits + block(logits).tanh()
        if "target" not in batch:
            return Output(logits, None, None)
        mask = batch["target_mask"]
        count = mask.sum().float()
        loss = nn.functional.cross_entropy(logits[mask], batch["target"][mask], reduction="sum")
        return Output(logits, loss / count.clamp(min=1), count)


class See(nn.Module):
    """Images (B, 3, 4, 5) -> one vector each."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 8)

    def forward(self, x, mask):
        return from_pooled(self.linear(x.mean((2, 3))), mask.any(dim=1))


def towers(loss: str) -> TwoTower:
    """Wrong pairs matter from the start: their bias is 0."""
    torch.manual_seed(1)
    image, text = (
        Backbone({"image": See()}, SumFusion(8, ["image"])),
        Backbone({"text": RecurrentEncoder(8, 10)}, SumFusion(8, ["text"])),
    )
    model = TwoTower(image, text, loss)
    if model.bias is not None:
        model.bias.data.zero_()
    return model


def answers(logits, target) -> float:
    return float(logits.double().square().sum() + target.sum())


def run(kind: str, out: Path | None = None) -> dict:
    """One training run, alone or in company: history, weights, evaluation of each kind."""
    torch.set_num_threads(1)
    config = replace(CONFIG, distributed="fsdp" if kind == "fsdp" else "ddp")
    words = kind not in ("classes", "softmax", "sigmoid")
    model = (
        Blocks()
        if kind in ("fsdp", "blocks")
        else Tiny(words)
        if words or kind == "classes"
        else towers(kind)
    )
    if model.kind == "contrast":
        config = replace(config, accumulate=1)
    if distributed.rank() or int(os.environ.get("RANK", 0)):
        for parameter in model.parameters():
            parameter.data += 1.0  # the first process's weights are those that count
    train = cut(sample_batch(22, words=words), 7) if kind == "list" else Shared(words)
    history = fit(
        model, train, Shared(words), config, {"answers": answers}, out, extra={"kind": kind}
    )
    logits, target, _ = collect(model, Shared(words), "cpu")
    return {
        "history": without_seconds(history),
        "weights": checkpoint.weights(model),
        "logits": logits,
        "target": target,
        "whole": evaluate(model, cut(sample_batch(22, words=words), 7), device="cpu"),
        "shared": evaluate(model, Shared(words), device="cpu"),
    }


class Rows(torch.utils.data.Dataset):
    """Samples one by one; ``seen``: which were asked for."""

    def __init__(self):
        self.whole, self.seen = sample_batch(22), []

    def __len__(self) -> int:
        return 22

    def __getitem__(self, i: int) -> Batch:
        self.seen.append(i)
        return {key: value[i] for key, value in self.whole.items()}


class Adapter:
    """A shuffling DataLoader with a method ``shard``, as a user would write it.

    Each process cuts the batches that it draws itself.
    """

    def __init__(self, loader, rank: int = 0, world: int = 1):
        self.loader, self.rank, self.world, self.seen = loader, rank, world, []

    def __len__(self) -> int:
        return len(self.loader)

    def shard(self, rank: int, world: int) -> "Adapter":
        part = Adapter(self.loader, rank, world)
        part.seen = self.seen
        return part

    def __iter__(self):
        for batch in self.loader:
            part = {key: value[self.rank :: self.world] for key, value in batch.items()}
            self.seen += part.pop("row").tolist()
            yield part if len(part["text"]) else None


class Numbered(Rows):
    def __getitem__(self, i: int) -> Batch:
        return super().__getitem__(i) | {"row": torch.tensor(i)}


LOADERS = {
    "in order": lambda rows: torch.utils.data.DataLoader(rows, batch_size=7),
    "shuffled": lambda rows: torch.utils.data.DataLoader(rows, batch_size=7, shuffle=True),
    "own generator": lambda rows: torch.utils.data.DataLoader(
        rows,
        batch_size=7,
        shuffle=True,
        generator=torch.Generator().manual_seed(int(os.environ.get("RANK", 0))),
    ),
}


def from_loader(kind: str) -> dict:
    """A run over a DataLoader, and which rows this process asked for in each of two epochs."""
    torch.set_num_threads(1)
    rows, model = Numbered() if kind == "adapter" else Rows(), Tiny()
    loader = Adapter(LOADERS["shuffled"](rows)) if kind == "adapter" else LOADERS[kind](rows)
    seen = []

    def after(row, model) -> None:
        asked = loader.seen if kind == "adapter" else rows.seen
        seen.append(list(asked))
        asked.clear()

    rows.seen.clear()
    history = fit(model, loader, None, replace(CONFIG, epochs=2), after_epoch=after)
    return {"history": without_seconds(history), "weights": checkpoint.weights(model), "seen": seen}


class Drawn(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> Batch:
        return {"drawn": torch.rand(())}


class Streamed(torch.utils.data.IterableDataset):
    def __len__(self) -> int:
        return 8

    def __iter__(self):
        return iter([])


def refused() -> dict[str, str]:
    rows, found = Rows(), {}
    for name, loader in {
        "stream": torch.utils.data.DataLoader(Streamed(), batch_size=4),
        "ready batches": torch.utils.data.DataLoader(rows, batch_size=None),
        "sampler": torch.utils.data.DataLoader(
            rows, 4, sampler=torch.utils.data.DistributedSampler(rows)
        ),
        "tuple": tuple(cut(sample_batch(8), 4)),
    }.items():
        try:
            fit(Tiny(), loader, config=CONFIG)
        except ValueError as error:
            found[name] = str(error)
    return found


def with_own_optimizer(kind: str) -> dict:
    """SGD with momentum in two groups.

    The second process alone wants to stop after two epochs of three.
    """

    def optimizer(model, config):
        head, rest = [
            list(f)
            for f in (
                [p for n, p in model.named_parameters() if n.startswith("blocks")],
                [p for n, p in model.named_parameters() if not n.startswith("blocks")],
            )
        ]
        return torch.optim.SGD(
            [{"params": head, "lr": 0.1}, {"params": rest}], lr=0.01, momentum=0.9
        )

    torch.set_num_threads(1)
    model = Blocks()
    history = fit(
        model,
        Shared(True),
        Shared(True),
        replace(CONFIG, distributed=kind),
        optimizer=optimizer,
        after_epoch=lambda row, model: (
            row["epoch"] == 2 and distributed.rank() == distributed.world() - 1
        ),
    )
    return {"history": without_seconds(history), "weights": checkpoint.weights(model)}


class Stop(Exception):
    pass


def resumed(kind: str, out: Path) -> dict:
    """Both processes stop after the third step, within the second epoch.

    Then the run is resumed with fresh models.
    """
    config, saves = replace(CONFIG, distributed=kind, checkpoint_every=1), []
    real = checkpoint.random_state

    def counted(device):
        saves.append(1)
        if len(saves) == 4:
            raise Stop
        return real(device)

    checkpoint.random_state = counted
    try:
        fit(Blocks(), Shared(True), Shared(True), config, None, out)
    except Stop:
        pass
    checkpoint.random_state = real
    dist.barrier()
    batch = checkpoint.load(out)["batch"]
    dist.barrier()
    model = Blocks()
    history = fit(model, Shared(True), Shared(True), config, None, out, resume=True)
    return {
        "history": without_seconds(history),
        "weights": checkpoint.weights(model),
        "batch": batch,
    }


def one_of_two(rank: int, port: int, folder: str) -> None:
    """All that two processes do together, in one go: starting them is what takes time."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    out = Path(folder)
    results = {kind: run(kind, out / kind) for kind in KINDS}
    results |= {
        f"resumed {kind}": resumed(kind, out / f"resumed {kind}") for kind in ("ddp", "fsdp")
    }
    results |= {f"loader {kind}": from_loader(kind) for kind in (*LOADERS, "adapter")}
    results |= {f"sgd {kind}": with_own_optimizer(kind) for kind in ("ddp", "fsdp")}
    results |= {"refused": refused()}
    torch.save(results, out / f"{rank}.pt")


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch._dynamo", "mmlib.train", "tests.train.test_loop", "tests.train.test_distributed"]
    )
    processes = [
        context.Process(target=one_of_two, args=(rank, port, str(folder)), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    return [
        torch.load(folder / f"{rank}.pt", weights_only=True) | {"folder": folder}
        for rank in range(2)
    ]


def alike(a: dict, b: dict) -> None:
    assert [list(row) for row in a["history"]] == [list(row) for row in b["history"]]
    for mine, theirs in zip(a["history"], b["history"], strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)
    torch.testing.assert_close(a["weights"], b["weights"], **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one(pair, kind):
    alone = run(kind)
    alike(pair[0][kind], alone)
    torch.testing.assert_close(
        pair[0][kind]["logits"], alone["logits"], **CLOSE
    )  # the whole set, in its order
    assert torch.equal(pair[0][kind]["target"], alone["target"])
    assert pair[0][kind]["shared"]["loss"] == pytest.approx(
        pair[0][kind]["whole"]["loss"], rel=1e-5
    )


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_what_compares_samples_compares_those_of_all_processes(pair, kind):
    """History and weights above are those of one process; and a share alone has another loss."""
    rows = cut(sample_batch(22), 7)[0]
    model = towers(kind).train()
    shares = [model({key: value[rank::2] for key, value in rows.items()}) for rank in range(2)]
    apart = sum(share.loss * share.count for share in shares) / sum(share.count for share in shares)
    assert apart < 0.9 * model(rows).loss


@pytest.mark.parametrize("kind", KINDS)
def test_both_processes_have_the_same_numbers(pair, kind):
    a, b = (results[kind] for results in pair)
    assert (
        a["history"] == b["history"]
        and a["shared"] == b["shared"]
        and torch.equal(a["logits"], b["logits"])
    )
    assert all(torch.equal(value, b["weights"][name]) for name, value in a["weights"].items())


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_run_of_two_processes_is_resumed_from_within_an_epoch(pair, kind):
    result, straight = pair[0][f"resumed {kind}"], pair[0]["blocks" if kind == "ddp" else "fsdp"]
    assert result["batch"] == 2
    assert [
        {k: v for k, v in row.items() if k != "val_answers"} for row in straight["history"]
    ] == result["history"]
    assert all(
        torch.equal(value, straight["weights"][name]) for name, value in result["weights"].items()
    )


@pytest.mark.parametrize("kind", ["words", "fsdp"])
def test_the_checkpoint_of_many_is_a_plain_one_that_one_process_reads(pair, kind):
    state = checkpoint.load(pair[0]["folder"] / kind)
    model = Blocks() if kind == "fsdp" else Tiny(words=True)
    model.load_state_dict(state["best"])
    assert evaluate(model, Shared(True), device="cpu")["loss"] == pytest.approx(
        pair[0][kind]["shared"]["loss"], rel=1e-5
    )
    with pytest.raises(ValueError, match="processes was 2 and is now 1"):
        fit(
            model,
            Shared(True),
            Shared(True),
            replace(CONFIG, distributed="fsdp" if kind == "fsdp" else "ddp"),
            out=pair[0]["folder"] / kind,
            resume=True,
            extra={"kind": kind},
        )


@pytest.mark.parametrize("kind", [*LOADERS, "adapter"])
def test_of_a_dataloader_each_process_reads_its_own_rows_and_the_run_is_that_of_one(pair, kind):
    """Two seeds would be two orders: some rows would come twice in an epoch and some never.

    Nothing else would show it.
    """
    alone, parts = from_loader(kind), [results[f"loader {kind}"] for results in pair]
    for epoch in range(2):
        mine, yours = (part["seen"][epoch] for part in parts)
        assert sorted(mine + yours) == list(range(22)) and len(mine) - len(yours) == 4
    assert alone["seen"][0] != alone["seen"][1] or kind == "in order"
    for part in parts:
        alike(part, alone)
    assert parts[0]["history"] == parts[1]["history"]


def test_random_numbers_of_worker_processes_differ_between_the_processes(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "gather", lambda value: [value])
    drawn = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        loader = share(torch.utils.data.DataLoader(Drawn(), batch_size=4, num_workers=1))
        distributed.seed(loader, 5)
        drawn.append(torch.cat([batch["drawn"] for batch in loader]).tolist())
    assert len(drawn[0]) == len(drawn[1]) == 4 and not set(drawn[0]) & set(drawn[1])


@pytest.mark.parametrize(
    "name, expected",
    [
        ("stream", "IterableDataset"),
        ("ready batches", "batch_size"),
        ("tuple", "shard(rank, world)"),
        ("sampler", "no DistributedSampler"),
    ],
)
def test_a_loader_that_cannot_be_shared_out_is_an_error(pair, name, expected):
    assert all(expected in results["refused"][name] for results in pair)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_an_optimizer_of_ones_own_and_a_stop_by_one_process_are_those_of_all(pair, kind):
    mine, yours, alone = *(results[f"sgd {kind}"] for results in pair), with_own_optimizer("ddp")
    assert [row["epoch"] for row in alone["history"]] == [1, 2] and mine["history"] == yours[
        "history"
    ]
    alike(mine, alone)


def test_dropout_differs_between_the_processes_from_the_first_batch_on(monkeypatch):
    for rank, own in ((0, False), (1, True)):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        next(_windows([sample_batch(4)], Progress(), CONFIG))
        drawn = torch.rand(3)
        torch.manual_seed(_seed(CONFIG.seed, 0, 0))
        assert torch.equal(drawn, torch.rand(3)) != own


@pytest.mark.long
def test_the_same_under_torchrun(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\nimport torch\nfrom "
        "pathlib import Path\n"
        "from tests.train.test_distributed import distributed, run\nresult = run('words')\n"
        f"if distributed.rank() == 0:\n    torch.save(result, {str(tmp_path / 'result.pt')!r})\n",
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    subprocess.run(command, check=True, timeout=300)
    alike(torch.load(tmp_path / "result.pt", weights_only=True), run("words"))
