"""Figures of the notebooks, a file for each notebook."""

from mmlib.course.figures import attention, audio, cnn, fusion, loss, rnn, training
from mmlib.course.figures.overview import pipeline

__all__ = ["attention", "audio", "cnn", "fusion", "loss", "pipeline", "rnn", "training"]
