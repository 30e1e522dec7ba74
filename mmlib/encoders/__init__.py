"""Encoders: raw modality and mask -> Features. Every one is ``forward(x, mask) -> Features``."""
