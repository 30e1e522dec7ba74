"""When memory runs out, the error names the batch and what to try; other errors pass."""

import gc
import weakref

import pytest
import torch

from mmlib.machine import cores, explaining_out_of_memory, free_memory

BATCH = {"image": torch.zeros(4, 3, 8, 8), "image_mask": torch.ones(4, 8, dtype=torch.bool)}
SHAPES = r"4 samples \(image \(4, 3, 8, 8\)\)"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmany more lines"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["python", "CUDA", "CPU"],
)
def test_every_way_in_which_memory_runs_out_names_the_batch_and_keeps_the_cause(error):
    with (
        pytest.raises(
            torch.OutOfMemoryError, match=r"4 samples \(image \(4, 3, 8, 8\)\)"
        ) as caught,
        explaining_out_of_memory(BATCH),
    ):
        raise error
    assert caught.value.__cause__ is error and "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("x")], ids=repr)
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, explaining_out_of_memory(BATCH):
        raise error
    assert caught.value is error and error.__cause__ is None


def test_what_the_failed_pass_had_made_is_freed_while_the_error_is_kept():
    class Made:
        pass

    kept = []

    def forward() -> None:
        made = Made()
        kept.append(weakref.ref(made))
        raise MemoryError

    with pytest.raises(torch.OutOfMemoryError) as caught, explaining_out_of_memory(BATCH):
        forward()
    gc.collect()
    assert caught.value is not None and kept[0]() is None


def test_this_machine_has_a_core_and_memory():
    assert cores() >= 1 and free_memory() > 0
