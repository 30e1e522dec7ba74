"""Exercises of the notebooks that check themselves, a file for each notebook."""

from mmlib.course.exercises.exercise import Exercise

__all__ = ["Exercise"]
