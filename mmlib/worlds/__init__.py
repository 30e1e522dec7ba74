"""Worlds: data drawn from known causes, so that the best possible score is known."""
