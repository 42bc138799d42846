"""``fastconv.load`` and :class:`Model`: a model file, ready to run on NumPy arrays."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import knobs
from .errors import FastconvError, InputError, ModelError, OptionError
from .runtime.executor import Runner
from .runtime.ready import Opaque
from .threads import check_threads

if TYPE_CHECKING:
    from .graph import Graph, TensorType
    from .importer.defs import Model as Definition
    from .runtime.engine import Engine, Prepared
    from .runtime.stored import Request, Stored
    from .tuning import Tuned

# What reads files and makes plans is imported when it is needed: stored plans run without it.

FALLBACKS = ("warn", "error", "allow", "show")
ACCURACIES = ("fast", "strict")
WEIGHTS = ("float32", "float16")
#: Input shapes that are offered to the store before it is left alone.
MOST_OFFERS = 64
#: Attributes of a model that stored plans do not tell.
LATER = ("definition", "original", "graph", "tuned", "_engine", "_tuning")


class FallbackWarning(UserWarning):
    """Some operators of a model run through ``onnx.reference``: right, but slow."""


class TensorInfo(NamedTuple):
    """A model input or output.

    Attributes:
        name: its name in the file.
        shape: dimensions; a str names a size that may vary, None is unknown. None for the whole
            when even the rank is unknown.
        dtype: NumPy dtype.
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    dtype: np.dtype[Any] | None


def load(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview,
    threads: int | None = None,
    fallback: str = "warn",
    *,
    accuracy: str = "fast",
    weights: str = "float32",
    tuned: bool = True,
    memory_limit: int | None = None,
    optimize: bool = True,
    disable: Iterable[str] = (),
    cache: bool | str | os.PathLike[str] | None = None,
) -> Model:
    """Load an ONNX model.

    Args:
        source: path of an .onnx file, or its bytes.
        threads: threads per run; None or 0 for the physical cores that this process may use.
        fallback: what to do with operators that have no native kernel: ``"warn"`` runs them
            through ``onnx.reference`` and warns once, ``"allow"`` does so silently, ``"error"``
            refuses the model. One that ``onnx.reference`` lacks too is refused by all of these;
            ``"show"`` loads it to be looked at (it fails when it is run).
        accuracy: ``"fast"`` allows algorithms whose error is a small multiple of direct float32
            convolution's (Winograd), and weights of fully-connected layers in 24 bits;
            ``"strict"`` keeps to direct convolution and float32 weights.
        weights: ``"float16"`` stores the weights of fully-connected layers (Gemm, MatMul, and 1×1
            convolution of single pixels) in half precision, for runs of up to 16 rows: they are
            read from memory in half the time. Arithmetic stays float32; a weight is off by at most
            2**-11 of itself, or 2**-25 of the largest of its output where that is more.
            The base build converts in software: smaller there too, but slower than float32.
        tuned: use what ``fastconv tune`` found for this model on this machine, if it was run.
        memory_limit: bytes that activations and outputs may take, with the activations of all runs
            in progress (default: the memory of the machine, or of the container): arenas, and
            whatever lives beside them, such as the elements of sequences and what a Loop stacks.
            Inputs, and weights and constants of the model, do not count. A run that would pass it
            raises MemoryLimitError.
        optimize: whether to fuse and fold; without, every node runs as it stands in the file.
        disable: names of optimisation passes to leave out.
        cache: a folder where finished plans with their packed weights are kept, from which the next
            start takes them instead of reading the model; True for ``plans`` in the folder of
            ``fastconv tune``, None for that if ``FASTCONV_STORE`` is 1, False for none. Another
            model file, option, processor or build of fastconv makes them anew. What is there is
            trusted as code is: the folder must belong to this user, and nobody else may write to
            it, or it is left alone.

    Raises:
        ModelError: the file is not a sound ONNX model.
        UnsupportedError: it needs something that fastconv does not run.
        OptionError: an argument makes no sense.
    """
    return Model(
        source,
        threads,
        fallback,
        accuracy=accuracy,
        weights=weights,
        tuned=tuned,
        memory_limit=memory_limit,
        optimize=optimize,
        disable=disable,
        cache=cache,
    )


class Model:
    """A loaded model. Safe to run from many threads at once; pickles by its path or bytes.

    Arguments are those of :func:`load`.

    Attributes:
        inputs, outputs: what goes in and comes out, in order.
        overridable: inputs that have a value in the file, which :meth:`run` takes another for.
        metadata: the file's metadata_props.
        graph: the optimised graph.
        threads: threads per run.
        tuned: the tuned choices in use, or None.

    With stored plans (``cache``) the file is read when something is asked for that they do not
    tell: other shapes, the graph, a profile.
    """

    if TYPE_CHECKING:
        opset: int
        metadata: dict[str, str]
        overridable: list[TensorInfo]
        producer: tuple[str, str]
        ir_version: int
        inputs: list[TensorInfo]
        outputs: list[TensorInfo]
        definition: Definition
        original: Graph
        graph: Graph
        tuned: Tuned | None
        _engine: Engine
        _kinds: dict[str, str]
        _widened: dict[str, int]
        _narrowed: dict[str, int]
        _foreign: bool
        _tuning: tuple[str, list[Any]] | None

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | bytearray | memoryview,
        threads: int | None = None,
        fallback: str = "warn",
        *,
        accuracy: str = "fast",
        weights: str = "float32",
        tuned: bool = True,
        memory_limit: int | None = None,
        optimize: bool = True,
        disable: Iterable[str] = (),
        cache: bool | str | os.PathLike[str] | None = None,
        _fed: frozenset[str] = frozenset(),
    ) -> None:
        if accuracy not in ACCURACIES:
            raise OptionError(f"accuracy={accuracy!r}: expected one of {', '.join(ACCURACIES)}")
        if weights not in WEIGHTS:
            raise OptionError(f"weights={weights!r}: expected one of {', '.join(WEIGHTS)}")
        if fallback not in FALLBACKS:
            raise OptionError(f"fallback={fallback!r}: expected one of {', '.join(FALLBACKS)}")
        memory_limit = _checked_limit(memory_limit)
        self.threads = check_threads(threads)
        if isinstance(disable, str):
            raise OptionError(f"disable={disable!r}: expected a list of names of passes")
        disable = tuple(disable or ())
        if isinstance(source, (bytes, bytearray, memoryview)):
            source = bytes(source)
        elif isinstance(source, (str, os.PathLike)):
            source = os.path.abspath(os.fspath(source))
        else:
            raise OptionError(
                f"a model is given as a path or as bytes, not as {type(source).__name__}"
            )
        self._source = source
        self._options = {
            "threads": threads,
            "fallback": fallback,
            "accuracy": accuracy,
            "weights": weights,
            "tuned": tuned,
            "memory_limit": memory_limit,
            "optimize": optimize,
            "disable": disable,
            "cache": cache,
        }
        self._fed = _fed
        self._variants: dict[frozenset[str], Model] = {}
        #: Where plans are stored, while there is room for more.
        self._request: Request | None = None
        self._stored: Stored | None = None
        self._offered: set[Any] = set()
        folder = _cache_folder(cache)
        if folder is None or _fed or not isinstance(source, str) or not self._find(folder):
            self.__dict__.update(self._read())
        self._types = {i.name: i for i in self.inputs}
        self._single = self.outputs[0].name if len(self.outputs) == 1 else None

    def _read(self) -> dict[str, Any]:
        """What the file says, and an engine; by names of attributes."""
        from . import loading

        options = {**self._options, "threads": self.threads}
        if self._stored is None:
            return loading.read(self._source, options, self._fed)
        options["fallback"] = "allow"
        return loading.read(self._source, options, self._fed, self._stored.arenas)

    # Stored plans.

    def _find(self, folder: str) -> bool:
        """Take the stored plans of this model, if there are such."""
        from .runtime import stored

        assert isinstance(self._source, str)
        o = self._options
        limit: Any = o["memory_limit"]
        options = (
            self.threads, o["fallback"], o["accuracy"], o["weights"], bool(o["tuned"]), limit,
            bool(o["optimize"]), o["disable"],
        )  # fmt: skip
        self._request = stored.request(folder, self._source, options, limit)
        if self._request is None:
            return False
        found = stored.find(self._request, self._tuned_state)
        if found is None:
            return False
        self._stored = found
        self.__dict__.update(found.attributes(TensorInfo))
        return True

    def _tuned_state(self, kind: str) -> list[Any]:
        """What changes when other tuned choices would be used for a model of this kind."""
        if not self._options["tuned"]:
            return []
        from .tuning import state

        assert isinstance(self._source, str)
        return state(self._source, kind)

    def __getattr__(self, name: str) -> Any:
        """What stored plans do not tell.

        Raises:
            ModelError: the model file has changed since, or cannot be read.
        """
        if name not in LATER or self.__dict__.get("_stored") is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        stored = self._stored
        assert stored is not None
        with stored.lock:
            if name not in self.__dict__:
                if not stored.still_holds(self._tuned_state):
                    raise ModelError(
                        f"{self._source!s}: the file, or one that belongs to it, has changed since "
                        "the model was loaded; load it again"
                    )
                if self._request is not None:
                    self._request = self._request.again()
                found = self._read()
                self.__dict__.update({n: found[n] for n in LATER})
        return self.__dict__[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *LATER})

    def _offer(self, feeds: Mapping[str, Any]) -> None:
        """Store the engine's plan for these inputs, if that is wanted and possible."""
        from . import loading
        from .runtime import stored, storing

        request = self._request
        if request is None:
            return
        if any(f.dtype is None or f.shape is None for f in feeds.values()):
            return
        key = stored.plan_key(list(self._types), feeds)
        if key in self._offered:
            return
        self._offered.add(key)
        if len(self._offered) > MOST_OFFERS:
            self._request = None
        portrait = loading.portrait(self)
        room = portrait is not None and storing.store(
            request, portrait, self._tuned_state, key, self._engine.prepare(feeds)
        )
        if not room:
            self._request = None

    def __repr__(self) -> str:
        name = self._source if isinstance(self._source, str) else f"{len(self._source)} bytes"
        return f"<fastconv.Model {name!r}: {self.inputs} -> {self.outputs}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self._source, self._options)

    # Running.

    def __call__(self, *arrays: Any) -> Any:
        """Run on arrays in input order; returns the output array, or a list when there are more.

        Raises:
            InputError: an array does not fit; names the input, what came and what is wanted.
        """
        types = self._types
        if len(arrays) != len(types):
            raise InputError(
                f"{len(arrays)} arrays given; the model takes {len(types)}: {', '.join(types)}"
            )
        hot = self._hot()
        outs = None if hot is None else hot.run(dict(zip(types, arrays, strict=True)))
        if outs is None:
            feeds = {n: self._checked(n, types[n], a) for n, a in zip(types, arrays, strict=True)}
            outs = self.run_checked(feeds)
        if self._single is not None:
            return outs[self._single]
        return [outs[o.name] for o in self.outputs]

    def run(
        self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Run on named arrays; returns the outputs by name (all, or those asked for).

        Raises:
            InputError: a name, dtype, rank or shape does not fit.
        """
        if isinstance(outputs, str):
            raise InputError(f"outputs={outputs!r}: expected a list of names, [{outputs!r}]")
        if outputs is not None:
            known = {o.name for o in self.outputs}
            for name in outputs:
                if name not in known:
                    raise InputError(
                        f"no output {name!r}; the model has {', '.join(sorted(known))}"
                    )
        outs = self.run_all(feeds)
        return outs if outputs is None else {n: outs[n] for n in outputs}

    def run_all(
        self, feeds: Any, convert: Callable[[Any], Mapping[str, Any]] | None = None
    ) -> dict[str, np.ndarray]:
        """All outputs by name; what :meth:`run` does once it knows what is asked for.

        ``convert`` is applied to feeds that are no dict of arrays that fit as they are.
        """
        hot = self._hot()
        if hot is not None:
            outs = hot.run(feeds)
            if outs is not None:
                return outs
        if convert is not None:
            feeds = convert(feeds)
        model = self.for_feeds(feeds)
        return model.run_checked(model.check_feeds(feeds))

    def _hot(self) -> Runner | None:
        """The short way to the plan of the last run, unless inputs or outputs need a cast."""
        if self._stored is not None:
            return self._stored.hot
        return None if self._widened or self._narrowed else self._engine.hot

    def for_feeds(self, feeds: Mapping[str, Any]) -> Model:
        """The variant of this model in which initializers that are fed are inputs.

        This model itself when none is fed. What such a value was folded into, or packed for, does
        not hold for another, so each set of fed names is optimised and planned by itself, once.
        """
        if not self.overridable or not isinstance(feeds, Mapping) or len(feeds) <= len(self.inputs):
            return self
        fed = frozenset(o.name for o in self.overridable if o.name in feeds) - self._fed
        if not fed:
            return self
        variant = self._variants.get(fed)
        if variant is None:
            # What falls back was warned about when this model was loaded.
            options = {**self._options, "fallback": "allow", "cache": False, "_fed": fed}
            variant = _unpickle(self._source, options)
            variant = self._variants.setdefault(fed, variant)
        return variant

    def run_checked(
        self,
        feeds: Mapping[str, Any],
        profile: list[Any] | None = None,
        check: Callable[[], object] | None = None,
    ) -> dict[str, np.ndarray]:
        """Run on what :meth:`check_feeds` returned; the outputs by name.

        ``profile``: a list to which ``(plan, nanoseconds)`` of every part is added, as
        :meth:`profile` returns them.
        ``check``: called before every part and now and then between steps; what it raises ends the
        run.
        """
        stored = self._stored
        if stored is not None and profile is None:
            outs = stored.run(feeds, check)
            if outs is not None:
                return outs
        outs = self._engine.run(feeds, profile, check)
        if stored is not None:
            stored.hot = self._engine.hot
        if self._request is not None:
            self._offer(feeds)
        if self._narrowed:
            from .formats import narrowed

            for name, code in self._narrowed.items():
                outs[name] = narrowed(outs[name], code)
        return outs

    def profile(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Run once and return ``(plan, nanoseconds)`` for every part that was planned.

        Those are the times of the plan's steps, then of the nodes that run in Python after them
        (``plan.eager``; a Loop's is that of all its iterations).
        """
        parts: list[Any] = []
        self.run_checked(self.check_feeds(feeds), parts)
        return parts

    def prepare(self, shapes: Mapping[str, Sequence[int]] | None = None) -> Prepared:
        """Plan for these input shapes (or the file's own) without running.

        Raises:
            InputError: a dimension is not known, or does not fit the model.
        """
        from .graph import TensorType

        types: dict[str, np.ndarray | TensorType] = {}
        for name in shapes or {}:
            if name not in self._types:
                raise InputError(f"no input {name!r}; the model takes {', '.join(self._types)}")
        for i in self.inputs:
            shape = tuple((shapes or {}).get(i.name, i.shape or ()))
            sizes = tuple(d for d in shape if isinstance(d, int))
            if len(sizes) != len(shape) or (i.shape is None and i.name not in (shapes or {})):
                raise InputError(
                    f"input {i.name!r} has shape {_text(i.shape)}: give its sizes, for example "
                    f"{i.name}={','.join(str(d) if isinstance(d, int) else '1' for d in shape)}"
                )
            if any(d < 0 for d in sizes):
                raise InputError(f"input {i.name!r}: shape {_text(shape)} has a negative size")
            _check_shape(i.name, self._types[i.name], sizes)
            types[i.name] = TensorType(self.original.types[i.name].dtype, sizes)
        prepared = self._engine.prepare(types)
        if self._request is not None:
            self._offer(types)
        return prepared

    def check_feeds(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The arrays as kernels want them (native byte order, C-contiguous), or InputError."""
        if not isinstance(feeds, Mapping):
            raise InputError(
                f"expected a mapping of input names to arrays, got {type(feeds).__name__}"
            )
        result = {}
        for name, wanted in self._types.items():
            if name not in feeds:
                given = ", ".join(map(str, feeds)) or "nothing"
                raise InputError(f"input {name!r} is missing (given: {given})")
            result[name] = self._checked(name, wanted, feeds[name])
        if len(feeds) > len(result):
            extra = next(n for n in feeds if n not in result)
            raise InputError(f"no input {extra!r}; the model takes {', '.join(result)}")
        return result

    def _checked(self, name: str, wanted: TensorInfo, value: Any) -> Any:
        """One fed value as the engine takes it."""
        if name in self._kinds:
            return self._checked_value(name, wanted, value)
        code = self._widened.get(name)
        if code is None:
            return check_array(name, wanted, value)
        from .formats import held_dtype, rounded

        held = held_dtype(code)
        if isinstance(value, np.ndarray) and value.dtype == held and held != wanted.dtype:
            # What is held may be fed as well: the bits that do not fit are rounded off.
            value = rounded(value, code)
            return check_array(name, wanted._replace(dtype=held), value)
        return check_array(name, wanted, value).astype(held, copy=False)

    def _checked_value(self, name: str, wanted: TensorInfo, value: Any) -> Any:
        """A fed sequence or optional value."""
        from .formats import held_dtype

        if isinstance(value, Opaque):
            return value  # it has been checked
        kind = self._kinds[name]
        element = wanted._replace(shape=None)
        code = self._widened.get(name)

        def tensor(a: Any, what: str) -> Any:
            array = check_array(what, element, a)
            return array if code is None else array.astype(held_dtype(code), copy=False)

        if isinstance(value, (list, tuple)):
            return Opaque([tensor(a, f"{name}[{k}]") for k, a in enumerate(value)])
        if kind == "sequence":
            raise InputError(
                f"input {name!r} is a sequence: give a list of arrays, not {type(value).__name__}"
            )
        return Opaque(None if value is None else tensor(value, name))

    # Looking inside.

    def stated_outputs(self) -> list[tuple[Any, str, str | None] | None]:
        """What the file states of each output: sizes, kind of value, ONNX's name of its elements.

        Sizes that only inference knows take the place of names. None for one without statement.
        """
        if self._stored is not None:
            return list(self._stored.signature["stated"])
        from .loading import stated_outputs

        return stated_outputs(self)

    def summary(self, shapes: Mapping[str, Sequence[int]] | None = None) -> str:
        """A table of layers as text; see ``fastconv inspect``."""
        from .inspect import describe, render

        return render(describe(self, shapes))


def _unpickle(source: Any, options: dict[str, Any]) -> Model:
    return Model(source, **options)


def _checked_limit(value: Any) -> int | None:
    """``memory_limit`` as a plain int.

    Raises:
        OptionError: it is no number of bytes.
    """
    if value is None:
        return None
    try:
        limit = 0 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        limit = 0
    if limit < 1:
        raise OptionError(f"memory_limit={value!r}: expected bytes, a number ≥ 1, or None")
    return limit


def _cache_folder(cache: Any) -> str | None:
    """The folder of stored plans that ``cache`` asks for; None for no folder.

    Raises:
        OptionError: it is neither a folder's path nor True, False or None.
    """
    if cache is None:
        cache = knobs.STORE.get() == "1"
    if cache is False:
        return None
    if cache is True:
        from .tuning import cache_folder

        folder = cache_folder()
        return None if folder is None else os.path.join(folder, "plans")
    if isinstance(cache, (str, os.PathLike)):
        path = os.fspath(cache)
        if isinstance(path, str) and path and "\0" not in path:
            return os.path.abspath(path)
    raise OptionError(f"cache={cache!r}: expected the path of a folder, True, False or None")


def info(name: str, t: TensorType | TensorInfo) -> TensorInfo:
    """A value's type as users see it: symbols as plain strings."""
    shape = t.shape
    if shape is None:
        return TensorInfo(name, None, t.dtype)
    dims = tuple(d if d is None or isinstance(d, int) else str(d) for d in shape)
    return TensorInfo(name, dims, t.dtype)


def _text(shape: Any) -> str:
    if shape is None:
        return "[any rank]"
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def _check_shape(name: str, wanted: TensorInfo, shape: tuple[int, ...]) -> None:
    if wanted.shape is None:
        return
    if len(shape) != len(wanted.shape):
        raise InputError(
            f"input {name!r} has rank {len(shape)} (shape {_text(shape)}); the model wants rank "
            f"{len(wanted.shape)}: {_text(wanted.shape)}"
        )
    for got, want in zip(shape, wanted.shape, strict=True):
        if isinstance(want, int) and got != want:
            raise InputError(
                f"input {name!r} has shape {_text(shape)}; the model wants {_text(wanted.shape)}"
            )


def check_array(name: str, wanted: TensorInfo, value: Any) -> np.ndarray:
    """One fed array, checked and made contiguous in native byte order.

    Raises:
        InputError: it is not an array, or its dtype, rank or shape does not fit.
    """
    dtype = wanted.dtype
    if type(value) is np.ndarray and value.dtype is dtype and value.flags.c_contiguous:
        if value.shape != wanted.shape:
            _check_shape(name, wanted, value.shape)
        return value
    if not isinstance(value, np.ndarray):
        try:
            value = np.asarray(value)
        except (ValueError, TypeError) as e:
            raise InputError(f"input {name!r} is not an array: {e}") from None
        if value.dtype != dtype and value.dtype.kind in "bif" and dtype is not None:
            value = value.astype(dtype)  # a Python list has no dtype of its own
    if value.dtype is not dtype:
        if value.dtype.newbyteorder("=") != dtype and not (
            dtype == np.dtype(object) and value.dtype.kind in "US"
        ):
            raise InputError(f"input {name!r} has dtype {value.dtype}; the model wants {dtype}")
        value = value.astype(dtype)
    _check_shape(name, wanted, value.shape)
    if not value.flags.c_contiguous:
        value = np.ascontiguousarray(value)
    return value


__all__ = ["FallbackWarning", "FastconvError", "Model", "TensorInfo", "load"]
