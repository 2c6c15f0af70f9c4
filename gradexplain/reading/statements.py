"""Statements: assignments, loops and functions, written out as they are met.  Nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from gradexplain.errors import InputError, Span
from gradexplain.limits import MAX_CALLS
from gradexplain.reading import calls, classes, custom, library
from gradexplain.reading.expressions import defaults, truth, value
from gradexplain.reading.names import MODULES
from gradexplain.reading.objects import Class, Layer, Module, Own, Tensor, Unread
from gradexplain.reading.operators import become, binary, change_in_place
from gradexplain.reading.plain import TRACE
from gradexplain.reading.program import span
from gradexplain.reading.session import Session
from gradexplain.reading.targets import assign, iterated


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class _Break(Exception):
    """``break``."""


class _Continue(Exception):
    """``continue``."""


def run_whole(s: Session, body: Sequence[ast.stmt]) -> Any:
    """Read a whole text; a ``return`` outside a function, as of a body that was copied, ends it."""
    try:
        return run(s, body)
    except _Return as done:
        return done.value
    except (_Break, _Continue):
        s.fail("`break` stands outside a loop", Span(0, len(s.program.source)), "leave it out")


#: Calls in a statement that is passed over which are read all the same.
_GRADIENTS = {"grad", "backward", "jacobian", "vjp", "jacrev", "jacfwd", "grad_and_value",
              "hessian", "hvp", "vmap", "batched", "Derivative"}  # fmt: skip


def connect(s: Session) -> None:
    """Tell the session how functions are called."""
    s.call = lambda f, args, kwargs, place, where: calls.call(s, f, args, kwargs, place, where)
    s.call_own = lambda own, args, kwargs, place: _called(s, own, args, kwargs, place)
    s.run = lambda body: run(s, body)
    s.evaluate = lambda node: value(s, node)
    s.iterate = lambda found, place: iterated(s, found, place)
    s.hooked = lambda tensor: custom.hooked(s, tensor)


_SHOWN = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Return)


def run(s: Session, body: Sequence[ast.stmt]) -> Any:
    """Read statements one after the other; the value of the last one that has a value."""
    last: Any = None
    for node in body:
        first = len(s.builder.nodes)
        s.step(span(s.program, node))
        found = _statement(s, node)
        if found is not None:
            last = found
        if s.program.place is None and isinstance(node, _SHOWN):
            s.shown.append((s.text(span(s.program, node)), first, len(s.builder.nodes)))
    return last


def _statement(s: Session, node: ast.stmt) -> Any:
    reader = _STATEMENTS.get(type(node))
    if reader is None:
        place = span(s.program, node)
        s.unsupported("this statement of Python is not read", place, TRACE)
    return reader(s, node)


# -- assignments -----------------------------------------------------------------------------------


def _assign(s: Session, node: ast.Assign) -> Any:
    found = value(s, node.value)
    for target in node.targets:
        found = assign(s, target, found, span(s.program, node))
    return found


def _annotated(s: Session, node: ast.AnnAssign) -> Any:
    if node.value is None:
        return None
    return assign(s, node.target, value(s, node.value), span(s.program, node))


def _augmented(s: Session, node: ast.AugAssign) -> Any:
    """``x += 1``: a tensor is changed in place, as PyTorch does it."""
    place = span(s.program, node)
    old = value(s, node.target)
    change = value(s, node.value)
    if isinstance(old, list) and isinstance(change, (list, tuple)) and isinstance(node.op, ast.Add):
        old.extend(change)
        return None
    new = binary(s, type(node.op), old, change, place, (node.target, node.value))
    if not isinstance(old, Tensor) or not isinstance(new, Tensor):
        return assign(s, node.target, new, place)
    change_in_place(s, old, place)
    if new.shape != old.shape:
        s.refuse("broadcast in place", place, list=list(old.shape), list2=list(new.shape))
    become(s, old, new)
    if isinstance(node.target, ast.Subscript) and old.view is None:  # a copy: what Python puts back
        assign(s, node.target, old, place)
    return old


# -- expressions as statements ---------------------------------------------------------------------


def _expression(s: Session, node: ast.Expr) -> Any:
    inner = node.value
    if isinstance(inner, ast.Constant) and isinstance(inner.value, (str, type(...))):
        return None
    if s.script and s.program.place is None and (_is_passed(inner) or _is_printed(s, inner)):
        _look(s, inner)
        return None
    return value(s, inner)


def _is_printed(s: Session, node: ast.expr) -> bool:
    """Whether this is what a module prints: ``Linear(in_features=2, …)`` of a class the text does not have."""
    name = node.func if isinstance(node, ast.Call) else None
    return isinstance(name, ast.Name) and name.id[0].isupper() and not s.assigned(name.id)


#: Functions and methods that are called for what they show or test.
_SHOWS = {"print", "display", "pprint", "type", "len", "help", "str", "allclose", "equal", "format", "join",
          "item", "tolist", "numpy", "assert_close"}  # fmt: skip


def _is_passed(node: ast.expr) -> bool:
    """Whether a bare expression changes nothing: ``x.grad``, ``print(…)`` without gradient calls."""
    if isinstance(node, ast.Call):
        return getattr(node.func, "attr", getattr(node.func, "id", "")) in _SHOWS
    return not isinstance(node, (ast.Await, ast.Yield))


def _look(s: Session, node: ast.AST) -> None:
    """What is only shown is passed over, but for what it asks of gradients or changes."""
    if isinstance(node, ast.Attribute) and node.attr == "grad" and isinstance(node.value, ast.Name):
        if s.assigned(node.value.id):
            value(s, node)
    elif isinstance(node, ast.NamedExpr) or isinstance(node, ast.Call) and _acts(s, node.func):
        value(s, node)
    else:
        for part in ast.iter_child_nodes(node):
            _look(s, part)


#: Methods that change what they are called on, besides those whose names end with _.
_CHANGES = {"append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault",
            "sort", "step", "update", "zero_grad"}  # fmt: skip


def _acts(s: Session, function: ast.expr) -> bool:
    """Whether a function asks for gradients or changes something, by its name or in its body."""
    while isinstance(function, ast.Call):  # grad(f)(x)
        function = function.func
    named = isinstance(function, ast.Name) and s.assigned(function.id)
    own = s.lookup(function.id) if isinstance(function, ast.Name) and named else None
    parts = [part for one in _body_of(own) for part in ast.walk(one)]
    names = {getattr(part, "attr", "") for part in parts}
    names |= {
        getattr(function, "attr", getattr(function, "id", "")),
        getattr(own, "kind", ""),
        getattr(own, "path", "").rpartition(".")[2],
    }
    changes = any(name.endswith("_") and not name.endswith("__") for name in names)
    puts = (ast.Global, ast.Nonlocal, ast.NamedExpr)
    return (
        changes
        or bool((_GRADIENTS | _CHANGES) & names)
        or any(
            isinstance(part, puts)
            or isinstance(getattr(part, "ctx", None), (ast.Store, ast.Del))
            and not isinstance(part, (ast.Name, ast.Tuple, ast.List, ast.Starred))
            for part in parts
        )
    )


def _body_of(own: Any) -> Sequence[ast.AST]:
    """The statements of a function of the text; of an object, those that calling it runs."""
    if isinstance(own, Layer) and own.own is not None and not own.own.placed:
        own = own.own.find(own.own.called)
    body = own.body if isinstance(own, Own) else []
    return body if isinstance(body, list) else [body]


# -- control flow ----------------------------------------------------------------------------------


def _for(s: Session, node: ast.For) -> Any:
    parts = iterated(s, value(s, node.iter), span(s.program, node.iter))

    def turns() -> Iterator[None]:
        for part in parts:
            _bind_turn(s, node.target, part)
            yield

    return _loop(s, node, turns())


def _loop(s: Session, node: ast.For | ast.While, turns: Iterator[None]) -> Any:
    last = None
    for _ in turns:
        try:
            found = run(s, node.body)
            last = found if found is not None else last
        except _Continue:
            continue
        except _Break:
            break
    else:
        run(s, node.orelse)
    return last


def _bind_turn(s: Session, target: ast.expr, part: Any) -> None:
    """The loop's name for one turn; a tensor keeps the name that it has."""
    if isinstance(target, ast.Name) and isinstance(part, Tensor):
        s.home(target.id)[target.id] = part
    elif (
        isinstance(target, ast.Tuple) and isinstance(part, tuple) and len(part) == len(target.elts)
    ):
        for inner, one in zip(target.elts, part, strict=True):
            _bind_turn(s, inner, one)
    else:
        assign(s, target, part, span(s.program, target))


def _while(s: Session, node: ast.While) -> Any:
    def turns() -> Iterator[None]:
        while truth(s, value(s, node.test), node.test):
            s.step(span(s.program, node.test))
            yield

    return _loop(s, node, turns())


def _with(s: Session, node: ast.With) -> Any:
    enabled, first = s.grad_enabled, len(s.builder.nodes)
    for item in node.items:
        enabled = _enabled(s, item.context_expr, enabled)
        if item.optional_vars is not None:
            place = span(s.program, item.context_expr)
            tape = "GradientTape" in ast.unparse(item.context_expr)
            found = value(s, item.context_expr) if tape else Unread(s.text(place), TRACE)
            assign(s, item.optional_vars, found, place)
    try:
        with s.gradients(enabled):
            return run(s, node.body)
    finally:
        if any("inference_mode" in ast.unparse(item.context_expr) for item in node.items):
            s.inferred.append((range(first, len(s.builder.nodes)), span(s.program, node)))


def _enabled(s: Session, node: ast.expr, before: bool) -> bool:
    """Whether gradients are recorded inside ``with`` this."""
    function = node.func if isinstance(node, ast.Call) else node
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in ("no_grad", "inference_mode"):
        return False
    if name == "enable_grad":
        return True
    if name == "set_grad_enabled" and isinstance(node, ast.Call) and node.args:
        return bool(value(s, node.args[0]))
    return before


def _try(s: Session, node: ast.Try) -> Any:
    """A ``try`` that shows an error: what PyTorch would say goes to the page."""
    enabled = s.grad_enabled
    try:
        found = run(s, node.body)
    except InputError as error:
        handler = _handler(node.handlers, error)
        if handler is None:
            raise
        place = (
            f"`{s.text(error.span)}`: " if error.span and error.source == s.program.source else ""
        )
        if not isinstance(error, _Raised):
            s.remark("refused", f"PyTorch refuses {place}{error.message}.")
        if handler.name:
            s.assign(handler.name, Unread(handler.name, TRACE))
        s.grad_enabled = enabled
        return run(s, handler.body)
    else:
        after = run(s, node.orelse)
        return found if after is None else after
    finally:
        run(s, node.finalbody)


class _Raised(InputError):
    """What a ``raise`` of the text raises, by its name."""

    name = ""


def _handler(handlers: Sequence[ast.ExceptHandler], error: InputError) -> ast.ExceptHandler | None:
    """The one that takes an error: PyTorch's are a ``RuntimeError`` where there is a choice."""
    for name in (error.name,) if isinstance(error, _Raised) else ("RuntimeError", "Error"):
        for handler in handlers:
            kind = "Exception" if handler.type is None else ast.unparse(handler.type)
            if "Exception" in kind or name in kind:
                return handler
    return None


# -- functions -------------------------------------------------------------------------------------


def _function(s: Session, node: ast.FunctionDef) -> Own:
    body = list(node.body)
    for decorator in node.decorator_list:
        if not _enabled(s, decorator, True):
            block = ast.With([ast.withitem(decorator)], body)
            body = [ast.copy_location(block, node)]
    given = defaults(s, node.args)
    placed = s.program.place is not None
    return Own(node.name, node.args, body, given, s.scopes, span(s.program, node), placed)


def _called(
    s: Session, own: Own, args: Sequence[Any], kwargs: Mapping[str, Any], place: Span
) -> Any:
    """A function of the text, its lines written out."""
    if len(s.scopes) > MAX_CALLS or s.depth >= MAX_CALLS:
        s.lack("too deep", place, MAX_CALLS=MAX_CALLS)
    names = [a.arg for a in (*own.arguments.posonlyargs, *own.arguments.args)]
    local: dict[str, Any] = dict(own.defaults)
    local |= dict(zip(names, args, strict=False))
    if own.arguments.vararg is not None:
        local[own.arguments.vararg.arg] = tuple(args[len(names) :])
    elif len(args) > len(names):
        s.refuse("too many arguments", place, name=own.name, count=len(names), count2=len(args))
    known = {*names, *(a.arg for a in own.arguments.kwonlyargs)}
    extra = {name: part for name, part in kwargs.items() if name not in known}
    if extra and own.arguments.kwarg is None:
        s.fail(f"{own.name}() has no argument {next(iter(extra))}=", place, "leave it out")
    local |= {name: part for name, part in kwargs.items() if name in known}
    if own.arguments.kwarg is not None:
        local[own.arguments.kwarg.arg] = extra
    missing = [name for name in names if name not in local]
    if missing:
        s.fail(f"{own.name}() needs the argument {missing[0]}", place, "give it")
    for name, part in local.items():
        if isinstance(part, Tensor) and part.is_leaf and part.ref is None and not part.name:
            part.hint = part.hint or name
    s.depth += 1
    given: list[Any] = []
    lines = own.body if isinstance(own.body, list) else []
    generates = _generates(lines)
    s.yielded += [given] if generates else []
    try:
        with s.scope((*own.scopes, local)), s.placed(place if own.placed else None):
            found = value(s, own.body) if isinstance(own.body, ast.expr) else _body(s, own.body)
    finally:
        s.depth -= 1
        if generates:
            s.yielded.pop()
    return s.generated(given, lines, local) if generates else found


def _body(s: Session, body: Sequence[ast.stmt]) -> Any:
    try:
        run(s, body)
    except _Return as done:
        return done.value
    return None


def _generates(body: Sequence[ast.stmt]) -> bool:
    """Whether a function is a generator: its values are worked out at once, in order."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return True
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)
    return False


def _return(s: Session, node: ast.Return) -> NoReturn:
    first = len(s.builder.nodes)
    found = None if node.value is None else value(s, node.value)
    if s.program.place is None:
        s.shown.append((s.text(span(s.program, node)), first, len(s.builder.nodes)))
    raise _Return(found)


def _break(s: Session, node: ast.Break) -> NoReturn:
    raise _Break


def _continue(s: Session, node: ast.Continue) -> NoReturn:
    raise _Continue


# -- imports and what is not read ------------------------------------------------------------------


def _import(s: Session, node: ast.Import) -> None:
    for name in node.names:
        if name.asname:
            s.scopes[-1][name.asname] = Module(name.name)
        else:
            root = name.name.partition(".")[0]
            s.scopes[-1][root] = Module(root)


def _import_from(s: Session, node: ast.ImportFrom) -> None:
    module = node.module or ""
    for name in node.names:
        path = f"{module}.{name.name}"
        if name.name == "*":
            continue
        found = Module(path) if path in MODULES else calls.imported(module, name.name)
        s.scopes[-1][name.asname or name.name] = found


def _class(s: Session, node: ast.ClassDef) -> None:
    above, called, path = None, "__call__", ""
    for base in node.bases:
        named = isinstance(base, ast.Name) and not s.assigned(base.id)
        found = None if named else value(s, base)
        path = ast.unparse(base) if named else getattr(found, "path", "")
        found = library.member(s, path) or found if path.startswith("torch.nn.") else found
        if isinstance(found, Class):
            above, called = found, found.called
        elif path == "Module":
            above, called = library.member(s, "torch.nn.Module"), "forward"
        elif path.endswith("autograd.Function") or path == "Function":
            called = "apply"
        elif path.rpartition(".")[2] not in _PLAIN:
            s.scopes[-1][node.name] = Unread(f"class {node.name}", TRACE)
            return
    placed = s.program.place is not None
    called = "forward" if placed and node.name == "Module" else called
    made = Class(node.name, above, called, placed=placed)
    inherited = above.fields if above is not None else None
    made.fields = [*(inherited or ())] if inherited is not None or _is_record(node, path) else None
    with s.scope((*s.scopes, {"__class__": made}, made.body)):
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef):
                marks = classes.marks(statement)
                name = statement.name + " =" * ("setter" in marks)
                with s.scope(s.scopes[:-1]):  # names of the body are no names of its methods
                    made.body[name] = _function(s, statement)
                made.statics |= {statement.name} if "staticmethod" in marks else set()
                made.properties |= {statement.name} if "property" in marks else set()
            elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
                _statement(s, statement)
                if made.fields is not None and isinstance(statement, ast.AnnAssign):
                    made.fields.append(ast.unparse(statement.target))
    s.scopes[-1][node.name] = made


#: Classes that give nothing to those that are made from them.
_PLAIN = {"object", "ABC", "Dataset", "IterableDataset", "NamedTuple"}


def _is_record(node: ast.ClassDef, base: str) -> bool:
    """Whether the constructor of a class is made of its annotations: a ``dataclass``."""
    marks = [ast.unparse(mark).partition("(")[0] for mark in node.decorator_list]
    return base.endswith("NamedTuple") or any(mark.endswith("dataclass") for mark in marks)


def _raise(s: Session, node: ast.Raise) -> NoReturn:
    error = _Raised("the text raises an error here", remedy="leave it out, or take the other way")
    kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    error.name = "" if kind is None else ast.unparse(kind)
    raise error.at(s.program.source, span(s.program, node))


def _elsewhere(s: Session, node: ast.Global | ast.Nonlocal) -> None:
    """``global n``, ``nonlocal n``: where the names are looked for and put from here on."""
    for name in node.names:
        around = [s.scopes[0]] if isinstance(node, ast.Global) else s.scopes[-2::-1]
        home = next((scope for scope in around if name in scope), around[0])
        s.scopes[-1].setdefault("", {})[name] = home


def _delete(s: Session, node: ast.Delete) -> None:
    for target in node.targets:
        place = span(s.program, target)
        if isinstance(target, ast.Name):
            s.home(target.id).pop(target.id, None)
            continue
        owner = value(s, target.value) if isinstance(target, (ast.Subscript, ast.Attribute)) else 0
        if isinstance(target, ast.Subscript) and isinstance(owner, (list, dict)):
            try:
                del owner[value(s, target.slice)]
            except (LookupError, TypeError):
                s.fail("there is nothing to delete here", place, "count from 0")
        elif isinstance(target, ast.Attribute) and isinstance(owner, Layer):
            for held in (owner.children, owner.parameters, owner.attributes):
                held.pop(target.attr, None)
        elif not isinstance(owner, Unread):
            s.unsupported("this is not deleted here", place, TRACE)


_STATEMENTS: dict[type[ast.stmt], Callable[[Session, Any], Any]] = {
    ast.Assign: _assign, ast.AnnAssign: _annotated, ast.AugAssign: _augmented, ast.Expr: _expression,
    ast.Assert: lambda s, node: _look(s, node.test), ast.For: _for, ast.While: _while,  ast.With: _with,
    ast.Try: _try,  ast.Return: _return, ast.Break: _break,
    ast.Continue: _continue, ast.Import: _import, ast.ImportFrom: _import_from,
    ast.ClassDef: _class, ast.Raise: _raise, ast.Pass: lambda s, node: None, ast.Delete: _delete,
    ast.If: lambda s, node: run(s, node.body if truth(s, value(s, node.test), node.test) else node.orelse),
    ast.FunctionDef: lambda s, node: s.assign(node.name, _function(s, node)),
    ast.Global: _elsewhere, ast.Nonlocal: _elsewhere,
}  # fmt: skip
