"""Recurrent layers of torch -> ONNX's own operators, which read a sequence of any length.

torch's exporter writes a recurrence out step by step, for as many steps as the sample has.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn


def replace_recurrence(network: nn.Module) -> None:
    """Put an ``OnnxRecurrent`` in the place of each nn.RNN, nn.GRU and nn.LSTM, in place.

    Raises ValueError, naming the layer, for projections (proj_size), which ONNX does not have.
    """
    for name, part in list(network.named_modules()):
        for child, layer in list(part.named_children()):
            if isinstance(layer, nn.RNNBase):
                if layer.proj_size:
                    raise ValueError(
                        f"{name}.{child} is an LSTM with proj_size={layer.proj_size}, which ONNX "
                        "does not have: project with an nn.Linear after it"
                    )
                setattr(part, child, OnnxRecurrent(layer))


class OnnxRecurrent(nn.Module):
    """What ``layer`` computes from a state of zeros, as ONNX operators; it runs in an export only.

    x (B, T, D), or (T, B, D) without ``batch_first``, -> as torch's layer: the outputs, and the
    last states.
    """

    # torch's places of the gates, in ONNX's order: iofc, zrh
    GATES: ClassVar = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}

    def __init__(self, layer: nn.RNNBase):
        super().__init__()
        self.kind, self.batch_first = layer.mode.partition("_")[0], layer.batch_first
        self.hidden, self.directions = layer.hidden_size, 1 + layer.bidirectional
        self.attributes: dict[str, Any] = {
            "hidden_size": layer.hidden_size,
            "direction": "bidirectional" if layer.bidirectional else "forward",
        }
        if self.kind == "GRU":  # torch applies the reset gate after the matrix product
            self.attributes["linear_before_reset"] = 1
        if layer.mode == "RNN_RELU":
            self.attributes["activations"] = ["Relu"] * self.directions
        self.layers = nn.ModuleList(self._weights(layer, i) for i in range(layer.num_layers))

    def _weights(self, layer: nn.RNNBase, number: int) -> nn.ParameterList:
        """W and R (directions, gates * hidden, ...), and both biases side by side."""
        names = [f"l{number}", f"l{number}_reverse"][: self.directions]
        nothing = torch.zeros(len(self.GATES[self.kind]) * self.hidden)
        rows: list[Tensor] = []
        for part in ("weight_ih", "weight_hh"):
            rows.append(torch.stack([self._gates(getattr(layer, f"{part}_{n}")) for n in names]))
        biases = [
            [self._gates(getattr(layer, f"{part}_{n}", nothing)) for part in ("bias_ih", "bias_hh")]
            for n in names
        ]
        rows.append(torch.stack([torch.cat(pair) for pair in biases]))
        return nn.ParameterList(rows)

    def _gates(self, rows: Tensor) -> Tensor:
        parts = rows.detach().chunk(len(self.GATES[self.kind]))
        return torch.cat([parts[i] for i in self.GATES[self.kind]])

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        if state is not None or not isinstance(x, Tensor):
            raise ValueError(
                "a recurrent layer with a first state, or with a packed sequence, has no export: "
                "give it the padded tensor alone (mmlib.Recurrent shows how padding stays harmless)"
            )
        x = x.transpose(0, 1) if self.batch_first else x  # (T, B, D)
        last = []
        for weights in self.layers:
            time, rows, _ = x.shape
            states = (self.directions, rows, self.hidden)
            shapes = [(time, *states), states, states][: 3 if self.kind == "LSTM" else 2]
            y, *ends = torch.onnx.ops.symbolic_multi_out(
                self.kind,
                (x, *weights.parameters()),
                self.attributes,
                dtypes=[x.dtype] * len(shapes),
                shapes=shapes,
            )  # (T, directions, B, hidden), (directions, B, hidden)
            x = y.transpose(1, 2).flatten(2)  # (T, B, directions * hidden)
            last.append(ends)
        ends = [torch.cat(one) for one in zip(*last, strict=True)]
        x = x.transpose(0, 1) if self.batch_first else x
        return x, tuple(ends) if self.kind == "LSTM" else ends[0]
