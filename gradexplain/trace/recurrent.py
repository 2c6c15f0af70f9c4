"""PyTorch's recurrent layers, written out in the operations that their documentation gives.

`written_out` makes the calls of one fused call: ``call`` applies an operation by its spelling, as
in ``call("torch.tanh", x)``.  What it returns has the form of what PyTorch returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gradexplain.errors import UnsupportedError

Apply = Callable[..., Any]

#: Layers with more steps in time than this, over all layers, are not written out.
STEPS = 100

_CELLS = {
    "lstm_cell": "lstm", "gru_cell": "gru", "rnn_tanh_cell": "rnn_tanh", "rnn_relu_cell": "rnn_relu",
}  # fmt: skip

#: The calls that can be written out.
NAMES = {*_CELLS, *_CELLS.values()}


def written_out(name: str, args: Sequence[Any], call: Apply, shape: Callable[[Any], Any]) -> Any:
    """The result of ``name(*args)``; ``shape`` gives a tensor's shape."""
    if name in _CELLS:
        x, state, *weights = args
        return _step(_CELLS[name], x, state, weights, call)
    if not isinstance(args[2], list):
        raise UnsupportedError("packed sequences are not written out")
    x, first, weights, biases, layers, dropout, training, both, batch_first = args
    if dropout and training:
        raise UnsupportedError("its dropout is drawn within PyTorch")
    lstm, ways = name == "lstm", 1 + both
    per_way = len(weights) // (layers * ways)
    if not biases:
        starts = range(0, len(weights), per_way)
        weights = [w for start in starts for w in _without_bias(weights, start, per_way)]
        per_way += 2
    length = shape(x)[1 if batch_first else 0]
    if length * layers * ways > STEPS:
        raise UnsupportedError(f"it has more than {STEPS} steps")
    inputs = [call("torch.select", x, 1 if batch_first else 0, t) for t in range(length)]
    last: list[Any] = []
    for layer in range(layers):
        outputs = []
        for way in range(ways):
            place = layer * ways + way
            w = weights[place * per_way : (place + 1) * per_way]
            if lstm:
                state = tuple(call("torch.select", part, 0, place) for part in first)
            else:
                state = call("torch.select", first, 0, place)
            order = range(length) if way == 0 else range(length - 1, -1, -1)
            made: dict[int, Any] = {}
            for t in order:
                state = _step(name, inputs[t], state, w, call)
                made[t] = state[0] if lstm else state
            outputs.append([made[t] for t in range(length)])
            last.append(state)
        inputs = [
            parts[0] if ways == 1 else call("torch.cat", list(parts), -1)
            for parts in zip(*outputs, strict=True)
        ]
    whole = call("torch.stack", inputs, 1 if batch_first else 0)
    if lstm:
        return whole, *(call("torch.stack", [s[n] for s in last], 0) for n in range(2))
    return whole, call("torch.stack", last, 0)


def _without_bias(weights: Sequence[Any], start: int, count: int) -> list[Any]:
    w = list(weights[start : start + count])
    return [*w[:2], None, None, *w[2:]]


def _step(kind: str, x: Any, state: Any, weights: Sequence[Any], call: Apply) -> Any:
    """One step in time: the new state."""
    w_x, w_h, b_x, b_h, *projection = [*weights, None, None][: max(4, len(weights))]

    def linear(value: Any, weight: Any, bias: Any) -> Any:
        given = [value, weight] if bias is None else [value, weight, bias]
        return call("F.linear", *given)

    h = state[0] if kind == "lstm" else state
    from_x, from_h = linear(x, w_x, b_x), linear(h, w_h, b_h)
    if kind in ("rnn_tanh", "rnn_relu"):
        return call(f"torch.{kind[4:]}", call("torch.add", from_x, from_h))
    if kind == "lstm":
        gates = call("torch.chunk", call("torch.add", from_x, from_h), 4, -1)
        i, f, o = (call("torch.sigmoid", gates[n]) for n in (0, 1, 3))
        g = call("torch.tanh", gates[2])
        c = call("torch.add", call("torch.mul", f, state[1]), call("torch.mul", i, g))
        h = call("torch.mul", o, call("torch.tanh", c))
        return (linear(h, projection[0], None) if projection else h), c
    x_r, x_z, x_n = call("torch.chunk", from_x, 3, -1)
    h_r, h_z, h_n = call("torch.chunk", from_h, 3, -1)
    r = call("torch.sigmoid", call("torch.add", x_r, h_r))
    z = call("torch.sigmoid", call("torch.add", x_z, h_z))
    n = call("torch.tanh", call("torch.add", x_n, call("torch.mul", r, h_n)))
    return call("torch.add", n, call("torch.mul", z, call("torch.sub", h, n)))
