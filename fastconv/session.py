"""``InferenceSession`` and its options: the names and behaviour of onnxruntime's Python API.

A program written for onnxruntime runs with ``import fastconv.session as onnxruntime``. There is one
execution provider, the CPU. Errors are fastconv's own exceptions, which derive from the builtins
that such programs catch.
"""

from __future__ import annotations

import enum
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from .errors import InputError, OptionError, UnsupportedError
from .graph import Sym, TensorType
from .importer.defs import DATA_TYPES
from .model import Model, TensorInfo, info

CPU = "CPUExecutionProvider"

#: NumPy dtype name → ONNX's, where they differ.
_ONNX_NAMES = {"float32": "float", "float64": "double", "object": "string", "str": "string"}


class GraphOptimizationLevel(enum.IntEnum):
    """How much to optimise; everything above ``ORT_DISABLE_ALL`` means all of fastconv's passes."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(enum.IntEnum):
    """Order of execution. Nodes always run one after another, each on all threads."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


def get_available_providers() -> list[str]:
    """The execution providers there are: the CPU."""
    return [CPU]


def get_all_providers() -> list[str]:
    """The same as :func:`get_available_providers`."""
    return [CPU]


def get_device() -> str:
    """``"CPU"``."""
    return "CPU"


class _Options:
    """Fields with a fixed set of names and types; anything else raises, as in onnxruntime."""

    __slots__: tuple[str, ...] = ()
    _FIELDS: ClassVar[Mapping[str, tuple[type, Any]]] = {}

    def __init__(self) -> None:
        for name, (_, default) in self._FIELDS.items():
            object.__setattr__(self, name, default)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._FIELDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        kind, _ = self._FIELDS[name]
        if kind is int and hasattr(value, "__index__") and not isinstance(value, bool):
            value = value.__index__()
        elif issubclass(kind, enum.Enum):
            try:
                value = kind(value)
            except ValueError:
                names = ", ".join(m.name for m in kind)
                raise OptionError(f"{name}={value!r}: expected one of {names}") from None
        elif kind is str and isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, kind):
            raise TypeError(f"{name}={value!r}: expected {kind.__name__}")
        object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        changed = [
            f"{n}={getattr(self, n)!r}"
            for n, (_, default) in self._FIELDS.items()
            if getattr(self, n) != default
        ]
        return f"<{type(self).__name__} {' '.join(changed) or 'defaults'}>"


class SessionOptions(_Options):
    """Options of a session.

    These have an effect:
        intra_op_num_threads: threads per run; 0 for the physical cores this process may use.
        graph_optimization_level: ``ORT_DISABLE_ALL`` runs every node as it stands in the file.
        log_severity_level: 3 (error) or higher silences the warning about slow operators.

    The rest is accepted for the sake of programs that set it: memory is always planned and reused,
    results never depend on the number of threads, and there is no log.
    """

    _FIELDS: ClassVar = {
        "enable_cpu_mem_arena": (bool, True),
        "enable_mem_pattern": (bool, True),
        "enable_mem_reuse": (bool, True),
        "enable_profiling": (bool, False),
        "execution_mode": (ExecutionMode, ExecutionMode.ORT_SEQUENTIAL),
        "execution_order": (int, 0),
        "graph_optimization_level": (GraphOptimizationLevel, GraphOptimizationLevel.ORT_ENABLE_ALL),
        "inter_op_num_threads": (int, 0),
        "intra_op_num_threads": (int, 0),
        "log_severity_level": (int, -1),
        "log_verbosity_level": (int, 0),
        "logid": (str, ""),
        "optimized_model_filepath": (str, ""),
        "profile_file_prefix": (str, "onnxruntime_profile_"),
        "use_deterministic_compute": (bool, False),
    }
    __slots__ = (*_FIELDS, "_dimensions", "_entries")
    _dimensions: dict[str, int]
    _entries: dict[str, str]
    enable_profiling: bool
    graph_optimization_level: GraphOptimizationLevel
    intra_op_num_threads: int
    log_severity_level: int
    optimized_model_filepath: str

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "_entries", {})
        object.__setattr__(self, "_dimensions", {})

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Store a configuration entry; none of them has an effect."""
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"config entry {key!r}={value!r}: both must be str")
        self._entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        """A configuration entry.

        Raises:
            OptionError: it was never added.
        """
        if key not in self._entries:
            raise OptionError(f"no session config entry {key!r}")
        return self._entries[key]

    def add_free_dimension_override_by_name(self, name: str, value: int) -> None:
        """Fix a symbolic dimension of the inputs, by its name in the file, to a size ≥ 0."""
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < 0:
            raise OptionError(f"dimension {name!r}={value!r}: expected a whole number ≥ 0")
        self._dimensions[name] = value.__index__()

    def register_custom_ops_library(self, path: str) -> None:
        """Not possible.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"{path!r}: libraries of operators for onnxruntime cannot be loaded; "
            "define the operator as a model-local function instead"
        )


class RunOptions(_Options):
    """Options of one run, accepted for compatibility; none has an effect."""

    _FIELDS: ClassVar = {
        "log_severity_level": (int, 2),
        "log_verbosity_level": (int, 0),
        "logid": (str, ""),
        "only_execute_path_to_fetches": (bool, False),
        "terminate": (bool, False),
        "training_mode": (bool, False),
    }
    __slots__ = (*_FIELDS, "_entries")
    _entries: dict[str, str]

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "_entries", {})

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Store a configuration entry; none of them has an effect."""
        self._entries[key] = value

    def get_run_config_entry(self, key: str) -> str:
        """A configuration entry.

        Raises:
            OptionError: it was never added.
        """
        if key not in self._entries:
            raise OptionError(f"no run config entry {key!r}")
        return self._entries[key]


class NodeArg(NamedTuple):
    """An input or output.

    Attributes:
        name: its name.
        type: such as ``tensor(float)``, ``seq(tensor(int64))``.
        shape: dimensions; a str is a symbol, None unknown. Empty for a scalar, an unknown rank, and
            anything but a tensor.
    """

    name: str
    type: str
    shape: list[int | str | None]

    def __repr__(self) -> str:
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={self.shape})"


class ModelMetadata(NamedTuple):
    """What the file says about itself."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom_metadata_map: dict[str, str]


class InferenceSession:
    """A model ready to run. Safe to run from many threads at once; pickles.

    Args:
        path_or_bytes: path of an .onnx file, or its bytes.
        sess_options: a :class:`SessionOptions`.
        providers: names of execution providers, or pairs of name and options, in order of
            preference. Those that do not exist are warned about; the CPU always serves.
        provider_options: one mapping per provider.
        kwargs: other arguments of onnxruntime's (``disabled_optimizers`` …) are ignored.

    Raises:
        ModelError: the file is not a sound ONNX model.
        UnsupportedError: the model, or an option, needs something that fastconv does not do.
        OptionError: an option makes no sense.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if sess_options is not None and not isinstance(sess_options, SessionOptions):
            raise OptionError(
                f"sess_options is {type(sess_options).__name__}; expected fastconv.SessionOptions"
            )
        options = sess_options or SessionOptions()
        if options.optimized_model_filepath:
            raise UnsupportedError("optimized_model_filepath: optimised models are not written")
        if options.enable_profiling:
            warnings.warn(
                "enable_profiling has no effect; see fastconv.Model.profile", stacklevel=2
            )
        self._sess_options = options
        self._providers = providers
        self._provider_options = provider_options
        _check_providers(providers, provider_options)
        level = options.graph_optimization_level
        model = Model(
            path_or_bytes,
            options.intra_op_num_threads,
            "allow" if options.log_severity_level >= 3 else "warn",
            optimize=level != GraphOptimizationLevel.ORT_DISABLE_ALL,
        )
        self._model = model
        self._source = model._source
        self._model_path = model._source if isinstance(model._source, str) else ""
        if options._dimensions:
            _override(model, options._dimensions)
        values = {v.name: v for v in model.definition.graph.outputs}
        self._inputs = [node_arg(i) for i in model.inputs]
        self._outputs = [
            node_arg(o, *((v.kind, v.elem_type) if (v := values.get(o.name)) else ()))
            for o in model.outputs
        ]
        self._names = [o.name for o in model.outputs]
        self._known = frozenset(self._names)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (
            self._source,
            self._sess_options,
            self._providers,
            self._provider_options,
        )

    def __repr__(self) -> str:
        return f"<fastconv.InferenceSession of {self._model!r}>"

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
    ) -> list[Any]:
        """Run the model.

        Args:
            output_names: which outputs to return, in this order; None or empty for all.
            input_feed: an array for every input, by name.
            run_options: accepted and ignored.

        Returns:
            One array (a list of arrays for a sequence) per output.

        Raises:
            InputError: an unknown name, a missing input, or a wrong dtype, rank or shape.
        """
        model = self._model
        if output_names and not self._known.issuperset(output_names):
            name = next(n for n in output_names if n not in self._known)
            raise InputError(f"no output {name!r}; the model has {', '.join(self._names)}")
        outs = model.run_checked(model.check_feeds(input_feed))
        return [outs[n] for n in output_names or self._names]

    def get_inputs(self) -> list[NodeArg]:
        """The inputs in order."""
        return list(self._inputs)

    def get_outputs(self) -> list[NodeArg]:
        """The outputs in order."""
        return list(self._outputs)

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Initializers that a caller may replace: none, they are constants."""
        return []

    def get_modelmeta(self) -> ModelMetadata:
        """What the file says about itself."""
        m = self._model.definition
        return ModelMetadata(
            m.producer_name,
            m.graph.name,
            m.domain,
            m.doc_string,
            m.graph.doc_string,
            m.model_version,
            dict(m.metadata),
        )

    def get_session_options(self) -> SessionOptions:
        """The options it was made with."""
        return self._sess_options

    def get_providers(self) -> list[str]:
        """The execution providers in use: the CPU."""
        return [CPU]

    def get_provider_options(self) -> dict[str, dict[str, Any]]:
        """The options of each provider in use."""
        return {CPU: {}}

    def set_providers(
        self,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Choose providers; unknown ones are warned about and the CPU stays in use."""
        _check_providers(providers, provider_options)
        self._providers, self._provider_options = providers, provider_options

    def disable_fallback(self) -> None:
        """Nothing to do: there is one provider."""

    def enable_fallback(self) -> None:
        """Nothing to do: there is one provider."""


def _unpickle(*args: Any) -> InferenceSession:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # given when the session was first made
        return InferenceSession(*args)


def _check_providers(providers: Any, options: Any) -> None:
    """Warn about providers that do not exist.

    Raises:
        OptionError: not a list of names, or options that do not go with it.
    """
    if providers is None:
        if options:
            raise OptionError("provider_options were given without providers")
        return
    if isinstance(providers, str) or not isinstance(providers, Sequence):
        raise OptionError(f"providers={providers!r}: expected a list of names")
    if options and len(options) != len(providers):
        raise OptionError(f"{len(options)} provider_options for {len(providers)} providers")
    for p in providers:
        name = p[0] if isinstance(p, (tuple, list)) and len(p) == 2 else p
        if not isinstance(name, str):
            raise OptionError(f"provider {p!r}: expected a name, or a pair of name and options")
        if name != CPU:
            warnings.warn(
                f"Specified provider {name!r} is not in available provider names. "
                f"Available providers: {CPU!r}",
                stacklevel=3,
            )


def node_arg(value: TensorInfo, kind: str = "tensor", elem_type: int | None = None) -> NodeArg:
    """A model input or output as onnxruntime describes it."""
    if elem_type is not None:
        name = DATA_TYPES.get(elem_type, "?").lower()
    elif value.dtype is None:
        name = "?"
    else:
        name = _ONNX_NAMES.get(value.dtype.name, value.dtype.name)
    name = f"tensor({name})"
    wrapped = {"sequence": f"seq({name})", "optional": f"optional({name})", "map": f"map({name})"}
    if kind in wrapped:
        return NodeArg(value.name, wrapped[kind], [])
    return NodeArg(value.name, name, list(value.shape or ()))


def _override(model: Model, sizes: Mapping[str, int]) -> None:
    """Put numbers in the place of named dimensions of the inputs and outputs."""

    def fix(t: TensorType) -> TensorType:
        if t.shape is None:
            return t
        dims = tuple(sizes.get(str(d), d) if isinstance(d, Sym) else d for d in t.shape)
        return TensorType(t.dtype, dims)

    model._types = {n: fix(t) for n, t in model._types.items()}
    model.inputs = [info(n, t) for n, t in model._types.items()]
    model.outputs = [
        o._replace(
            shape=None
            if o.shape is None
            else tuple(sizes.get(d, d) if isinstance(d, str) else d for d in o.shape)
        )
        for o in model.outputs
    ]


__all__ = [
    "ExecutionMode",
    "GraphOptimizationLevel",
    "InferenceSession",
    "ModelMetadata",
    "NodeArg",
    "RunOptions",
    "SessionOptions",
    "get_all_providers",
    "get_available_providers",
    "get_device",
]
