"""Jinja for chat templates, which come with a model and are not trusted: bounded in time and in memory, too.

Jinja's own sandbox keeps a template away from Python, but lets it loop and grow on the thread that renders it. Here

- whatever can be repeated or makes something passes by a meter: an item of a loop, a call, a filter, a test, an
  operator, a slice, a literal with parts, a piece of the output. The meter ends a rendering that makes more than
  ``MAX_BYTES``, or takes more than ``MAX_SECONDS`` of its thread's processor time (how busy the machine is must not
  decide about a record);
- what native code would make of little at one stroke is refused before (``'a' * 10**9``, a width of a million);
- values are counted as often as they are in one another, and nest ``MAX_DEPTH`` deep: ``[a, a]`` forty times over is
  small until it is printed;
- there are only filters and methods that keep to this, and no ``lipsum``, ``cycler`` or ``joiner``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, MappingView
from contextvars import ContextVar
from functools import wraps
from string import Formatter
from sys import getsizeof
from time import monotonic, thread_time
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, TemplateRuntimeError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

__all__ = ["BoundError", "compile_template"]

MAX_SECONDS = 1.0
MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 32
MAX_SOURCE_CHARS = 100_000
STEP_BYTES, ITEM_BYTES = 16, 64
ATOMS = (str, bool, int, type(None))
INT_BYTES = getsizeof(1 << 64)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FILTERS = _words(
    """
    abs attr batch capitalize center count d default dictsort e escape first float format groupby indent int items join
    last length list lower map max min reject rejectattr replace reverse safe select selectattr slice sort string title
    tojson trim truncate unique upper
    """
)
METHODS = _words(
    """
    bit_length capitalize casefold copy count endswith find format get index isalnum isalpha isascii isdecimal isdigit
    isidentifier islower isnumeric isprintable isspace istitle isupper items join keys lower lstrip partition
    removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase
    title upper values
    """
)
# Filters that go through their value item by item, also where it is a text.
ITERATING = _words("batch groupby join list map max min reject rejectattr select selectattr slice sort unique")
# What these make is at most the product of what they are given, numbers counted as what they say.
GROWING = _words("batch center format format_map indent slice tojson")
# What these make on the way is many small texts.
SPLITTING = _words("indent rsplit split splitlines title")


class BoundError(TemplateRuntimeError):
    """A template wants more time, memory or nesting than any chat needs."""


class _Meter:
    """What one rendering may still take."""

    def __init__(self) -> None:
        self._left = MAX_BYTES
        self._end = thread_time() + MAX_SECONDS
        self._look_at = monotonic() + MAX_SECONDS

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            _too_much()
        if monotonic() > self._look_at:  # the thread's own clock is the slower one to read
            left = self._end - thread_time()
            if left <= 0:
                raise BoundError(f"it takes more than {MAX_SECONDS:g} s of processor time. Does it loop without end?")
            self._look_at = monotonic() + left

    def made(self, value: Any) -> Any:
        """``value``, counted; an iterator's items are counted as they come."""
        if isinstance(value, ATOMS):
            size = getsizeof(value)
            if size > INT_BYTES and isinstance(value, int):
                raise BoundError("it counts beyond 64 bits.")
            self.spend(STEP_BYTES + size)
        elif isinstance(value, Iterator):
            self.spend(STEP_BYTES)
            return self.each(value)
        else:
            self.spend(STEP_BYTES + _weigh(value))
        return value

    def each(self, items: Iterable[Any], cost: int = STEP_BYTES) -> Iterator[Any]:
        """``items``, each of which costs."""
        for item in items:
            self.spend(cost)
            yield item


_METER: ContextVar[_Meter] = ContextVar("_METER")


class _Template(Template):
    def render(self, *args: Any, **kwargs: Any) -> str:
        token = _METER.set(_Meter())
        try:
            return super().render(*args, **kwargs)
        finally:
            _METER.reset(token)


class _Generator(CodeGenerator):
    """Writes ``environment.made(...)`` around what makes something, and ``each`` around what is looped over."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        name = _metered_as(node)
        if name:
            self.write(f"environment.{name}(")
        super().visit(node, *args, **kwargs)
        if name:
            self.write(")")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        node.iter.looped_over = True  # type: ignore[attr-defined]
        super().visit_For(node, frame)

    # What a macro or a block puts out is kept until its end, so each piece is counted as it is made.

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if frame.buffer is not None:
            self.write("environment.made(")
        super()._output_child_pre(node, frame, finalize)

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        super()._output_child_post(node, frame, finalize)
        if frame.buffer is not None:
            self.write(")")


class _Generation(Extension):
    """``{% generation %}``, with which training marks what an assistant says: what is inside is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own form

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Generator
    template_class = _Template
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation])
        self.filters = {name: _metered(name, self.filters[name]) for name in FILTERS}
        self.tests = {name: _metered(name, cast(Callable[..., Any], test)) for name, test in self.tests.items()}
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
        }

    def made(self, value: Any) -> Any:
        return _METER.get().made(value)

    def each(self, items: Iterable[Any]) -> Iterator[Any]:
        return _METER.get().each(items)

    def concat(self, pieces: Iterable[str]) -> str:
        made, counted = _METER.get().made, list[str]()
        for piece in pieces:
            counted.append(made(piece))
        return "".join(counted)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        known = attr in METHODS or not callable(value) or isinstance(obj, LoopContext | Namespace)
        return known and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        if isinstance(called, LoopContext):  # a recursive loop
            args = tuple(self.each(items) for items in args)
        method = getattr(called, "__wrapped__", called)  # str.format is wrapped
        if isinstance(owner := getattr(method, "__self__", None), str):
            args = tuple(_listed(one) if isinstance(one, Iterator) else one for one in args)
            _check_growth(method.__name__, owner, (*args, *kwargs.values()))
        return self.made(super().call(context, called, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            return self.made(left + right)
        if operator == "**":
            raise BoundError("it raises a number to a power, which no chat needs.")
        if operator == "*" and not _are_numbers(left, right):
            _check_product(left, (right,))
        if operator == "%" and isinstance(left, str):
            _check_growth("format", left, right if isinstance(right, tuple) else (right,))
        return self.made(super().call_binop(context, operator, left, right))


class _Namespace(Namespace):
    def __repr__(self) -> str:  # Jinja's prints what is in it, which is not counted as it changes
        return "<Namespace>"


def compile_template(source: str) -> Template:
    """A template with the sandbox and the bounds of this module, as transformers' templates expect it otherwise.

    Its ``render`` raises BoundError beyond the bounds, and whatever the template's own mistakes raise.

    Raises:
        Exception: of many kinds, as Jinja and Python do that read it; a TemplateError where it is merely wrong.
    """
    if len(source) > MAX_SOURCE_CHARS:
        raise BoundError(f"it has {len(source):,} characters, and no chat needs more than {MAX_SOURCE_CHARS:,}.")
    return _Environment().from_string(source)


def _metered_as(node: nodes.Node) -> str | None:
    if getattr(node, "looped_over", False):
        return "each"
    makes = isinstance(node, nodes.Concat | nodes.Compare | nodes.List | nodes.Dict)
    makes |= isinstance(node, nodes.Tuple) and node.ctx == "load"
    makes |= isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    return "made" if makes else None


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or a test that counts. Without a meter it fails, so that nothing is rendered while it is compiled."""
    at = int(hasattr(function, "jinja_pass_arg"))
    iterates, grows = name in ITERATING, name in GROWING | SPLITTING | {"join", "replace"}

    @wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        meter, value = _METER.get(), args[at]
        if iterates and isinstance(value, str | Iterator):
            value = _listed(value)
            args = (*args[:at], value, *args[at + 1 :])
        if grows:
            _check_growth(name, value, (*args[at + 1 :], *kwargs.values()))
        return meter.made(function(*args, **kwargs))

    return metered


def _listed(items: Iterable[Any]) -> list[Any]:
    return list(_METER.get().each(items, ITEM_BYTES))


def _check_growth(name: str, value: Any, others: tuple[Any, ...]) -> None:
    """That a filter or a text's method called ``name`` will not make too much of ``value``. Raises BoundError."""
    if name == "replace" and len(others) > 1:
        _check_product(str(value).count(str(others[0])), (str(others[1]),))
    elif name == "join":
        items, between = (others[0], (value,)) if isinstance(value, str) and others else (value, others)
        _check_product(len(items), between)
    elif name in GROWING:
        _check_product(value, others if not name.startswith("format") else (*others, _widest(str(value))))
    if name in SPLITTING:
        by = others[0] if others and isinstance(others[0], str) and others[0] else None
        _check_product(len(value) // 2 if by is None else value.count(by), (ITEM_BYTES,))


def _check_product(value: Any, others: tuple[Any, ...]) -> None:
    if _size(value) * sum(map(_size, others)) > MAX_BYTES:
        _too_much()


def _size(value: Any) -> int:
    """Of a number, as which it is repeated or padded to; of a text, its bytes; at least 1 for what is there."""
    if isinstance(value, str):
        return 1 + (len(value) if value.isascii() else 4 * len(value))
    return abs(value) if isinstance(value, int) else _weigh(value)


def _widest(text: str) -> int:
    """The largest number in a format string: it may be a width. Raises BoundError where an argument is the width."""
    if "{" in text and any("{" in (spec or "") for _, _, spec, _ in Formatter().parse(text)):
        raise BoundError("a format in it has a width that is an argument.")
    return max((int(number) for number in re.findall(r"\d+", text)), default=0)


def _weigh(value: Any) -> int:
    """Bytes of ``value`` and all that is in it, each part as often as it is there. Raises BoundError."""
    total, level = 0, [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for one in level:
            total += getsizeof(one)
            if isinstance(one, MappingView):
                total += ITEM_BYTES * len(one)
            if isinstance(one, list | tuple | dict | MappingView):
                inner.extend(cast(Iterable[Any], one))
            if isinstance(one, dict):
                inner.extend(one.values())
            if total > MAX_BYTES:
                _too_much()
        if not inner:
            return total
        level = inner
    raise BoundError(f"it has values more than {MAX_DEPTH} deep in one another.")


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _too_much() -> NoReturn:
    raise BoundError(f"it makes more than {MAX_BYTES >> 20} MB. Does it loop, or repeat or widen a text?")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
