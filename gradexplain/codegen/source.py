"""The array program as PyTorch source text: one more interpretation of `gradexplain.plan`.

Every index letter is an axis.  A value is written for a *frame*, the axes that the tensor it becomes
is broadcast against, last to last as PyTorch does: an element ``s[d1]`` in the frame ``(d0, d1)`` is
``s``, ``s[d0]`` is ``s.unsqueeze(-1)``.  What is written comes with its *layout*, the axes that it has
indeed; None is an axis of one element.  Operators stand in parentheses: `lines.show` takes away those
that a person would not write.
"""

from __future__ import annotations

import ast
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import sympy

from gradexplain.codegen.factors import groups_of, matrix_vector, merged, order_of, tensors
from gradexplain.codegen.lines import show
from gradexplain.codegen.lowering import TURNED, parameters
from gradexplain.codegen.numbers import constant, is_decimal, parts, rational
from gradexplain.codegen.places import (
    TENSORS,
    Frame,
    Places,
    Written,
    broadcast,
    fits,
    is_diagonal,
    triangle,
    unsupported,
)
from gradexplain.errors import UnsupportedError
from gradexplain.formula.functions import RecordFunction
from gradexplain.formula.kinds import Nonzero, log0
from gradexplain.plan import contraction
from gradexplain.plan.program import Axis, Node, needed, union
from gradexplain.routes.pytorch import function_of

#: SymPy's functions by their name in torch, where it differs.
_FUNCTIONS = {"Abs": "abs", "loggamma": "lgamma", "ceiling": "ceil", "Max": "maximum", "Min": "minimum",
              "rint": "round"}  # fmt: skip
_RELATIONS = {
    "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=", "equal": "==",
    "not_equal": "!=", "logical_and": "&", "logical_or": "|",
}  # fmt: skip
_INDEX = {"add": " + ", "multiply": " * ", "floor_divide": " // ", "remainder": " % "}
_REDUCE = {"greatest": "amax", "least": "amin", "product": "prod", "argmax": "argmax",
           "argmin": "argmin"}  # fmt: skip


class Source(Places):
    """Writes formulas.  ``names`` are what labels are called in the code; ``size`` what a size is.

    ``shapes`` are those of the labels' tensors; ``ranges`` how far an index letter runs.
    """

    def full(
        self,
        e: Any,
        places: Sequence[Any],
        like: str,
        shape: Sequence[int],
        *,
        whole: bool = True,
        leaf: bool = True,
    ) -> str:
        """``e`` at the places of ``like``'s elements, in its whole shape.

        Where it need not be ``whole``, `layout` is the shape that it has, which broadcasts to that.
        """
        node = self._lowering.formula(sympy.sympify(e), dict(self.ranges))
        frame = tuple(None if p.is_Integer else Axis(p.name, self.ranges[p]) for p in places)
        # What new tensors take their dtype from: no table, where there is another.
        tensors = sorted(
            (n for n in needed(node) if n.kind in TENSORS), key=lambda n: n.type == "index"
        )
        self._one = self.names[tensors[0].data[0]] if tensors else ""
        # A scalar does not give its dtype to what a table of numbers is multiplied with.
        self._plain = any(n.axes for n in tensors if n.type != "index")
        self.layout = tuple(shape)
        if not self._one and like:
            return show(_tree(f"torch.full_like({like}, {self.show(node, ())[0]})"))
        if leaf and like and node.elements == math.prod(shape) and self._keeps_order(node, frame):
            return f"{self._name(node.data[0])}.reshape({like}.shape)"
        text, layout = self.show(node, frame)
        self.layout = tuple(1 if a is None else a.size for a in layout)
        if not whole:
            return show(_tree(text))
        if like and any(a is not None and a not in layout for a in frame):
            text = f"{text}.expand_as({like})"
        elif like and len(layout) < len(frame):
            text = f"{text}.reshape({like}.shape)"
        return show(_tree(text))

    # -- tensors -----------------------------------------------------------------------------------

    def _number(self, node: Node, frame: Frame) -> Written:
        if node.data is True or node.data is False:
            return str(node.data), ()
        if node.type == "index":
            return self._near(int(node.data)), ()
        value = sympy.sympify(node.data)
        return (rational(value, self.size) if value.is_Rational else constant(value)), ()

    def _real(self, node: Node, frame: Frame) -> Written:
        text, layout = self.show(node.args[0], frame)
        return f"{text}.to({self._one}.dtype)", layout

    # -- elementwise -------------------------------------------------------------------------------

    def _map(self, node: Node, frame: Frame) -> Written:
        what = node.data
        if node.type == "index":
            if what not in _INDEX:
                raise unsupported(f"an index by {what}")
            return self._joined(_INDEX[what], node.args, frame)
        if what == "add":
            return self._sum_of(node, frame)
        if what in ("multiply", "divide"):
            return self._product(node, frame)
        if what == "logical_not":
            text, layout = self.show(node.args[0], frame)
            return f"(~{text})", layout
        if what in _RELATIONS if isinstance(what, str) else False:
            return self._relation(node, frame)
        if isinstance(what, tuple):
            text, layout = self.show(node.args[0], frame)
            return f"({text} ** {self._n(what[1])})", layout
        if what == "power":
            return self._joined(" ** ", node.args, frame)
        if what == "sqrt":
            text, layout = self.show(node.args[0], frame)
            return f"torch.sqrt({text})", layout
        return self._function(node, frame)

    def _joined(self, sign: str, args: Sequence[Node], frame: Frame) -> Written:
        parts = [self.show(arg, frame) for arg in args]
        return f"({sign.join(t for t, _ in parts)})", broadcast(layout for _, layout in parts)

    def _relation(self, node: Node, frame: Frame) -> Written:
        what, args = node.data, list(node.args)
        if what not in ("logical_and", "logical_or") and args[0].kind == "number":
            what, args = TURNED.get(what, what), args[::-1]
        if what == "equal" and all(arg.kind == "index" for arg in args):
            axes = sorted((args[0].axes[0], args[1].axes[0]), key=frame.index)
            sizes = ", ".join(map(self._n, dict.fromkeys(a.size for a in axes)))
            text = f"torch.eye({sizes}, dtype=torch.bool, device={self._one}.device)"
            return self._placed(text, axes, frame)
        return self._joined(f" {_RELATIONS[what]} ", args, frame)

    def _sum_of(self, node: Node, frame: Frame) -> Written:
        terms = []
        for arg in node.args:
            value = sympy.sympify(arg.data) if arg.kind == "number" else None
            negative = bool(value.could_extract_minus_sign() if value is not None
                            else self._fraction(arg)[0] < 0)  # fmt: skip
            if negative:
                arg = self._number_node(-value) if value is not None else self._minus(arg)
            text, layout = self.show(arg, frame)
            summed = any(n.kind == "contract" for n in needed(arg))
            key = (
                negative,
                summed,
                value is not None and not value.is_Integer,
                value is None,
                len(text),
                text,
            )
            terms.append((key, negative, text, layout))
        terms.sort(key=lambda t: t[0])
        found = "".join(f" {'-' if negative else '+'} {text}" for _, negative, text, _ in terms)
        found = f"-{found[3:]}" if terms[0][1] else found[3:]
        return f"({found})", broadcast(t[3] for t in terms)

    def _number_node(self, value: Any) -> Node:
        return self._add("number", data=value)

    def _minus(self, node: Node) -> Node:
        return self._add("map", self._number_node(sympy.S.NegativeOne), node, data="multiply")

    def _fraction(self, node: Node) -> tuple[Any, list[Node], list[Node]]:
        """``coefficient·above/below``; of a sum what does not depend on its index goes before it."""
        if node.kind == "number" and node.type == "real":
            value = sympy.sympify(node.data)
            return (value, [], []) if value.is_Rational else (sympy.S.One, [node], [])
        if node.kind == "map" and node.data in ("multiply", "divide") and node.type == "real":
            coefficient: Any = sympy.S.One
            above: list[Node] = []
            below: list[Node] = []
            for place, arg in enumerate(node.args):
                c, up, down = self._fraction(arg)
                if node.data == "divide" and place == 1:
                    if down:
                        below.append(arg)
                        continue
                    coefficient, below = coefficient / c, below + up
                else:
                    coefficient, above, below = coefficient * c, above + up, below + down
            return coefficient, above, below
        if node.kind == "select":
            c, up, down = self._fraction(node.args[1])
            if c != 1 and c != -1 or c == -1 and (up or down):
                part = self._whole(up, down)
                return c, [self._add("select", node.args[0], part)], []
        if node.kind == "contract":
            coefficient = sympy.S.One
            inside: list[Node] = []
            outside: list[Node] = []
            under: list[Node] = []
            for arg in node.args:
                c, up, down = (
                    self._fraction(arg) if arg.type == "real" else (sympy.S.One, [arg], [])
                )
                coefficient *= c
                for part, pile in [*((u, None) for u in up), *((d, under) for d in down)]:
                    bound = any(a in node.data for a in part.axes)
                    if pile is not None and bound:
                        part, pile = (
                            self._add("map", self._number_node(sympy.S.One), part, data="divide"),
                            None,
                        )
                    (inside if bound else outside if pile is None else pile).append(part)
            if coefficient != 1 or outside or under:
                if any(p.type != "real" for p in outside):
                    return sympy.S.One, [node], []
                kept = tuple(a for a in union(p.axes for p in inside) if a not in node.data)
                core = [self._add("contract", *inside, axes=kept, data=node.data)] if inside else []
                return coefficient, [*outside, *core], under
        return sympy.S.One, [node], []

    def _whole(self, above: Sequence[Node], below: Sequence[Node]) -> Node:
        top = self._multiplied(above or [self._number_node(sympy.S.One)])
        return self._add("map", top, self._multiplied(below), data="divide") if below else top

    def _multiplied(self, nodes: Sequence[Node]) -> Node:
        return nodes[0] if len(nodes) == 1 else self._add("map", *nodes, data="multiply")

    def _product(self, node: Node, frame: Frame) -> Written:
        coefficient, above, below = self._fraction(node)
        if bool(coefficient < 0):
            text, layout = self.show(self._scaled(-coefficient, above, below), frame)
            # The sign goes to the first factor: -a * b and not -(a * b).
            tree = _tree(text)
            product = isinstance(tree, ast.BinOp) and isinstance(tree.op, (ast.Mult, ast.Div))
            return (f"(-{text[1:-1]})" if product else f"(-{text})"), layout
        choices = [f for f in above if f.kind == "choose"]
        if len(choices) == 1 and len(above) > 1:
            rest = [f for f in above if f is not choices[0]]
            mask, *values = choices[0].args
            if any(
                v.kind == "number" for v in values
            ):  # so that x is where(c, x, 0.1*x) and not x*where(c, 1, 0.1)
                other = self._scaled(coefficient, rest, below)
                values = [self._times(v, other) for v in values]
                return self.show(self._add("choose", mask, *values), frame)
        pieces = self._factors(above, frame)
        top, bottom = map(sympy.Integer, parts(coefficient, self.size))
        if is_decimal(coefficient, self.size) or (
            coefficient.q > 1000
            and "/" not in rational(coefficient, self.size).replace("(1 / math", "")
        ):  # a decimal, or 1 / math.sqrt(2)
            top, bottom = coefficient, sympy.S.One
        under = self._factors(below, frame)
        if (
            not above and below and all(map(_is_count, below))
        ):  # 1 / 3 of integers has float's dtype
            under[0] = (f"{under[0][0]}.to({self._one}.dtype)", under[0][1])
        if top != 1 or not pieces:
            pieces.insert(0, (rational(top, self.size), ()))
        if bottom != 1:
            under.insert(0, (self._n(int(bottom)), ()))
        layout = broadcast(part for _, part in [*pieces, *under])
        text = " * ".join(t for t, _ in pieces)
        if under:
            text = f"({text}) / ({' * '.join(t for t, _ in under)})"
        return f"({text})", layout

    def _scaled(self, coefficient: Any, above: Sequence[Node], below: Sequence[Node]) -> Node:
        number = [] if coefficient == 1 and above else [self._number_node(coefficient)]
        return self._whole([*number, *above], below)

    def _times(self, value: Node, other: Node) -> Node:
        if value.kind == "number" and value.data in (0, 1):
            return other if value.data == 1 else value
        return self._add("map", value, other, data="multiply")

    def _factors(self, nodes: Sequence[Node], frame: Frame) -> list[Written]:
        """Factors in the order in which they are written: numbers, elements, functions, sums."""
        found = []
        for node in dict.fromkeys(nodes):
            text, layout = self.show(node, frame)
            if (times := list(nodes).count(node)) > 1:
                text = f"({text} ** {times})"
            base = node.args[0] if node.kind == "map" and isinstance(node.data, tuple) else node
            kind = "add" if base.kind == "map" and base.data == "add" else base.kind
            rank = {"number": 0, **dict.fromkeys(TENSORS, 1), "add": 3, "contract": 4}.get(kind, 2)
            late = text not in ("v", "g") and not text.startswith("grad_out")
            found.append(((rank, late, text), (text, layout)))
        return [part for _, part in sorted(found, key=lambda part: part[0])]

    def _function(self, node: Node, frame: Frame) -> Written:
        what = node.data
        parts = [self.show(arg, frame) for arg in node.args]
        texts, layout = [t for t, _ in parts], broadcast(p for _, p in parts)
        if isinstance(what, RecordFunction):
            return self._record(what, texts), layout
        if what is Nonzero:
            return f"torch.where({texts[0]} == 0, math.inf, {texts[0]})", layout
        if what is log0:
            return f"torch.where({texts[0]} == 0, 1.0, {texts[0]}).log()", layout
        if what is sympy.polygamma:
            order = node.args[0].data
            return (f"torch.digamma({texts[1]})" if order == 0 else
                    f"torch.polygamma({order}, {texts[1]})"), layout  # fmt: skip
        name = _FUNCTIONS.get(what.__name__, what.__name__)
        torch = sys.modules.get("torch")  # without it a line is only held against the numbers
        if torch is not None and not hasattr(torch, name):
            raise unsupported(f"the function {name}")
        numbers = [t for t, arg in zip(texts, node.args, strict=True) if arg.kind == "number"]
        if name in ("maximum", "minimum"):
            tensors = [t for t, arg in zip(texts, node.args, strict=True) if arg.kind != "number"]
            text = tensors[0]
            for other in tensors[1:]:
                text = f"torch.{name}({text}, {other})"
            side = "min" if name == "maximum" else "max"
            return (f"torch.clamp({text}, {side}={numbers[0]})" if numbers else text), layout
        method = len(texts) == 1 and texts[0].isidentifier()
        return (f"{texts[0]}.{name}()" if method else f"torch.{name}({', '.join(texts)})"), layout

    def _record(self, e: RecordFunction, texts: Sequence[str]) -> str:
        """A named pointwise record: ``torch.sigmoid(x)``, ``F.softplus(x, beta=2)``."""
        torch = sys.modules.get("torch")
        if torch is not None:
            function_of(torch, e.op)
        home = e.op.spellings[0].rpartition(".")[0]
        prefix = {"linalg": "torch.linalg", "special": "torch.special"}.get(home, home)
        pieces, tensors = [], iter(texts)
        for parameter, value in zip(parameters(e), e.args, strict=True):
            if parameter.is_tensor:
                pieces.append(next(tensors))
            elif parameter.required or sympy.sympify(parameter.default) != value:
                shown = rational(value, self.size) if value.is_Rational else constant(value)
                pieces.append(f"{parameter.name}={shown}")
        return f"{prefix}.{e.op.name}({', '.join(pieces)})"

    def _select(self, node: Node, frame: Frame) -> Written:
        mask, part = node.args
        if is_diagonal(mask):
            (first,), (second,) = mask.args[0].axes, mask.args[1].axes
            own = [a for a in (first, second) if a in part.axes]
            if len(own) == 1 and part.kind != "number":
                rest = tuple(a for a in frame if a in part.axes and a != own[0])
                text, layout = self.show(part, (*rest, own[0]))
                if layout == (*rest, own[0]):
                    last = sorted((first, second), key=frame.index)
                    return self._placed(f"torch.diag_embed({text})", [*rest, *last], frame)
        if part.kind == "number" and part.data == 1:
            return self._real(replace(node, args=(mask,)), frame)
        chosen, inner = self.show(part, frame)
        if part.kind == "number":
            chosen = self._entry(part, chosen)
        if (how := triangle(mask, inner)) is not None:
            return f"{chosen}.{how}", inner
        text, layout = self.show(mask, frame)
        return f"torch.where({text}, {chosen}, 0.0)", broadcast([layout, inner])

    def _entry(self, number: Node, text: str) -> str:
        """A number among those that ``torch.where`` chooses from."""
        if self._plain and number.data.is_Rational and _short(number.data):
            return f"{float(number.data)}"
        return f"{self._one}.new_tensor({text})"

    def _choose(self, node: Node, frame: Frame) -> Written:
        mask, yes, no = node.args
        text, layout = self.show(mask, frame)
        numbers = yes.kind == no.kind == "number"
        values = [self.show(v, frame)[0] for v in (yes, no)]
        if numbers:
            values = list(map(self._entry, (yes, no), values))
        inner = [] if numbers else [self.show(v, frame)[1] for v in (yes, no)]
        return f"torch.where({text}, {', '.join(values)})", broadcast([layout, *inner])

    # -- over an axis ------------------------------------------------------------------------------

    def _contract(self, node: Node, frame: Frame) -> Written:
        coefficient, above, below = self._fraction(node)
        if coefficient != 1 or below or above != [node]:
            return self.show(self._scaled(coefficient, above, below), frame)
        masks = [arg for arg in node.args if arg.type == "mask"]
        factors = [arg for arg in node.args if arg.type == "real"]
        if not masks and (groups := groups_of(factors, node.data)) is not None:
            return self._joined(" * ", [
                self._add("contract", *group, data=tuple(a for a in node.data if a in axes),
                          axes=tuple(a for a in axes if a not in node.data))
                for group, axes in groups], frame)  # fmt: skip
        if not masks and (product := self._einsum(node, factors, frame)) is not None:
            return product
        if len(masks) == 1 and not factors:
            return self._over("sum", masks[0], node.data, frame)
        body = self._whole(factors, [])
        for mask in masks:
            body = self._add("select", mask, body)
        if body.kind == "real":
            body = body.args[0]  # a count is of whole numbers
        return self._over("sum", body, node.data, frame)

    def _over(self, how: str, body: Node, bound: Sequence[Axis], frame: Frame) -> Written:
        """``body.sum(dim=…)``, its axes in the order that reads best."""
        best: tuple[int, str, Frame] | None = None
        kept = [a for a in frame if a in body.axes and a not in bound]
        for order in self._frames(body, bound, kept, frame):
            for keep in (False, True):
                result = tuple(None if a in bound else a for a in order if keep or a not in bound)
                if not fits(result, frame):
                    continue
                try:
                    text, layout = self.show(body, order)
                except UnsupportedError:
                    continue
                if len(layout) < len(order) or any(a not in layout for a in bound):
                    continue
                dims = [k - (len(order) if k >= 2 and k == len(order) - 1 else 0)
                        for k, a in enumerate(order) if a in bound]  # fmt: skip
                whole = len(dims) == len(order) and not keep
                said = f"dim={dims[0]}" if len(dims) == 1 else f"dim=({', '.join(map(str, dims))})"
                said = "" if whole else said
                said += ", keepdim=True" if keep else ""
                shown = f"{text}.{how}({said})"
                price = len(shown) + 20 * (
                    shown.count(".T") + shown.count("permute") + shown.count(".mT")
                )
                price += 10 * (shown.count("[") + shown.count("unsqueeze"))
                price += 15 * (len(result) < len(frame) and None in frame)
                if best is None or price < best[0]:
                    best = price, shown, tuple(r if a in layout or a is None else None for r, a in zip(
                        result, [a for a in order if keep or a not in bound], strict=True))  # fmt: skip
        if best is None:
            raise unsupported("a sum over an axis of no tensor")
        return best[1], best[2]

    def _frames(
        self, body: Node, bound: Sequence[Axis], kept: Sequence[Any], frame: Frame
    ) -> list[Frame]:
        """Orders of axes in which the body of a sum may be written."""
        found: list[Frame] = []
        letters = {*kept, *bound}
        for tensor in tensors(body):
            order = [a for a in tensor.axes if a in letters]
            if len(order) == len(letters):
                own = iter(tensor.axes)
                if tensor.kind == "element":
                    found.append(tuple(next(own) if p else None for p in tensor.data[1]))
                found.append(tuple(order))
        free = [k for k, a in enumerate(frame) if a not in kept]
        for places in itertools.permutations(free, min(len(free), len(bound))):
            placed = [a if a in kept else None for a in frame]
            for place, q in zip(places, bound, strict=False):
                placed[place] = q
            rest = list(bound[len(places) :])
            found += [(*rest, *placed), (*rest, *(a for a in placed if a is not None))]
        if len(letters) <= 4:
            found += [tuple(p) for p in itertools.permutations([*kept, *bound])]
        return list(dict.fromkeys(found))

    def _einsum(self, node: Node, factors: Sequence[Node], frame: Frame) -> Written | None:
        """A sum of a product as a matrix product or an ``einsum``; None where elementwise is as good."""
        groups = merged(factors)
        groups = groups if len(groups) > 1 else matrix_vector(factors, node.data)
        if not groups:
            return None
        operands = [self._whole(group, []) for group in groups]
        if len(operands) > 2 and all(len(o.axes) <= 2 for o in operands):
            # A chain of matrices: two at a time.
            axes = tuple(o.axes for o in operands)
            (first, second), kept = contraction.order(axes, node.axes)[0]
            bound = tuple(a for a in union([axes[first], axes[second]]) if a not in kept)
            pair = self._add("contract", operands[first], operands[second], axes=kept, data=bound)
            rest = [o for k, o in enumerate(operands) if k not in (first, second)]
            left = tuple(a for a in node.data if a not in bound)
            return self.show(self._add("contract", *rest, pair, axes=node.axes, data=left), frame)
        out = tuple(a for a in frame if a in node.axes)
        orders = [order_of(operand, [*out, *node.data]) for operand in operands]
        texts = []
        for operand, own in zip(operands, orders, strict=True):
            text, layout = self.show(operand, own)
            if layout != own:
                return None
            texts.append(text)
        product = self._matmul(texts, orders, node.data, out)
        if product is None:
            letter = dict(zip([*out, *node.data], "ijklmnpqrstuvw", strict=False))
            spec = ",".join("".join(letter[a] for a in own if a) for own in orders)
            product = f'torch.einsum("{spec}->{"".join(letter[a] for a in out if a)}", {", ".join(texts)})'
        return self._placed(product, out, frame)

    @staticmethod
    def _matmul(
        texts: Sequence[str], orders: Sequence[Frame], bound: Sequence[Axis], out: Frame
    ) -> str | None:
        if len(texts) != 2 or len(bound) != 1 or len(out) < 1:
            return None
        (q,), batch = bound, out[:-2]
        (a, b), (left, right) = texts, orders
        if out[-1] in left and out[-1] not in right:
            a, b, left, right = b, a, right, left

        # (batch…, i, q) @ (batch…, q, j), either of them turned, a vector on one side, or a batch
        # that the right one does not have.
        def turned(text: str, order: Frame, last: Any) -> str | None:
            if order == last:
                return text
            return (
                f"{text}.{'T' if len(last) == 2 else 'mT'}"
                if order == (*last[:-2], last[-1], last[-2])
                else None
            )

        if len(right) == 1 and right == (q,) and set(left) == {*out, q}:
            matrix = turned(a, left, (*out, q)) if len(left) > 1 else a
            return None if matrix is None else f"({matrix} @ {b})"
        if len(left) == 1 and left == (q,) and len(out) == 1:
            matrix = turned(b, right, (out[0], q))
            return None if matrix is None else f"({matrix} @ {a})"
        if len(out) < 2:
            return None
        first = turned(a, left, (*batch, out[-2], q))
        second = turned(b, right, (*(batch if len(right) > 2 else ()), q, out[-1]))
        return None if first is None or second is None else f"({first} @ {second})"

    def _reduce(self, node: Node, frame: Frame) -> Written:
        how, bound = node.data
        if how not in ("greatest", "least") and len(bound) > 1:
            raise unsupported("a product over several axes")
        return self._over(_REDUCE[how], node.args[0], bound, frame)

    def _take(self, node: Node, frame: Frame) -> Written:
        raise unsupported("blocks of a sum")


def _tree(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _short(value: Any) -> bool:
    """Whether float32 holds it exactly."""
    return float(np.float32(float(value))) == float(value)


def _is_count(node: Node) -> bool:
    """Whether a sum is written as one of truth values, which is an integer."""
    return node.kind == "contract" and all(arg.type == "mask" for arg in node.args)
