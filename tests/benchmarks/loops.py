"""One contender in a process of its own: reads a number of steps per line, trains that many,
answers with JSON. Run by speed.py.

    python loops.py CONTENDER MODEL SIZE THREADS

The answer: "seconds", each step from start to start; "peak", MiB of this process so far. The first
step of a call is not among them: it holds what a call costs once. With one thread the seconds are
of the CPU, of this process only, else of the clock.
"""

import json
import os
import resource
import sys
import tempfile
import time

WARM = 4  # steps at the start of each call that are not counted: caches and memory fill up


def torch_runner(contender: str, name: str, size: int, clock):
    """-> a function: steps -> marks of the clock, one at each forward pass."""
    import network
    import torch

    torch.manual_seed(0)
    model = (
        network.Tiny()
        if name == "tiny"
        else network.Plain()
        if not contender.startswith("mmlib")
        else network.Ours()
    )
    marks = []
    model.register_forward_pre_hook(lambda *_: marks.append(clock()))
    stock = network.batches(size, 8)
    train = LOOPS[contender.split()[0]](model, "bf16" if contender.endswith("bf16") else "fp32")

    def run(steps: int) -> list[float]:
        marks.clear()
        train([stock[i % len(stock)] for i in range(steps)])
        return marks[-steps:]  # fit looks at one sample first

    return run


def plain(model, precision):
    """The loop as one writes it."""
    import torch

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train(batches):
        model.train()
        for batch in batches:
            optimizer.zero_grad()
            model(batch).loss.backward()
            optimizer.step()

    return train


def mmlib(model, precision):
    """`fit` with its defaults."""
    from mmlib import TrainConfig, fit

    return lambda batches: fit(model, batches, config=TrainConfig(epochs=1, precision=precision))


def lightning(model, precision, **settings):
    """Lightning's Trainer with its defaults."""
    import logging
    import warnings

    import lightning as L
    import torch

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            return self.model(batch).loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    module = Module()

    def train(batches):
        with tempfile.TemporaryDirectory() as folder:
            trainer = L.Trainer(
                max_epochs=1, accelerator="cpu", devices=1, default_root_dir=folder, **settings
            )
            trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))

    return train


def lightning_off(model, precision):
    """The same with everything turned off that can be."""
    return lightning(
        model,
        precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def accelerate(model, precision):
    """Accelerate around the plain loop."""
    import torch
    from accelerate import Accelerator

    tool = Accelerator(cpu=True)
    wrapped, optimizer = tool.prepare(model, torch.optim.Adam(model.parameters(), lr=1e-3))

    def train(batches):
        wrapped.train()
        for batch in tool.prepare(torch.utils.data.DataLoader(batches, batch_size=None)):
            optimizer.zero_grad()
            tool.backward(wrapped(batch).loss)
            optimizer.step()

    return train


LOOPS = {
    "plain": plain,
    "mmlib": mmlib,
    "lightning": lightning,
    "lightning-off": lightning_off,
    "accelerate": accelerate,
}


def keras_runner(contender: str, name: str, size: int, clock):
    """The same network in Keras, on TensorFlow or on torch: compile, fit."""
    os.environ["KERAS_BACKEND"] = contender.split("-")[1]
    import keras
    import network
    import numpy as np

    if contender == "keras-tensorflow":
        import tensorflow as tf

        threads = int(sys.argv[4])
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    layers, image, text = keras.layers, keras.Input((size, size, 3)), keras.Input((network.WORDS,))
    x = image
    if name == "tiny":
        x = layers.Dense(64, "relu")(layers.Flatten()(x))
    else:
        for width in (32, 64, 128):
            x = layers.MaxPooling2D()(layers.Conv2D(width, 3, padding="same", activation="relu")(x))
        words = layers.Bidirectional(layers.LSTM(128))(
            layers.Embedding(network.VOCABULARY, network.EMBEDDING)(text)
        )
        x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), words])
    model = keras.Model([image] if name == "tiny" else [image, text], layers.Dense(1, "sigmoid")(x))
    model.compile("adam", "binary_crossentropy")
    stock = network.batches(size, 8)

    class Marks(keras.callbacks.Callback):
        times: list[float] = []

        def on_train_batch_begin(self, batch, logs=None):
            self.times.append(clock())

    def run(steps: int) -> list[float]:
        chosen = [stock[i % len(stock)] for i in range(steps)]
        whole = {key: np.concatenate([batch[key].numpy() for batch in chosen]) for key in stock[0]}
        pictures = whole["image"].transpose(0, 2, 3, 1).copy()
        Marks.times.clear()
        given = [pictures] if name == "tiny" else [pictures, whole["text"]]
        model.fit(
            given,
            whole["target"],
            batch_size=network.BATCH,
            shuffle=False,
            verbose=0,
            callbacks=[Marks()],
        )
        return list(Marks.times)

    return run


def main(contender: str, name: str, size: str, threads: str) -> None:
    clock = time.process_time if threads == "1" else time.perf_counter
    import torch

    torch.set_num_threads(int(threads))
    answers, sys.stdout = (
        sys.stdout,
        sys.stderr,
    )  # what libraries print must not get among the answers
    run = (keras_runner if contender.startswith("keras") else torch_runner)(
        contender, name, int(size), clock
    )
    for line in sys.stdin:
        marks = run(int(line) + WARM)[WARM - 1 :]
        seconds = [b - a for a, b in zip(marks, marks[1:])]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
