"""``SessionOptions`` and ``RunOptions``: every field that programs set, and what each does here."""

from __future__ import annotations

import enum
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from ..errors import OptionError
from .enums import (
    ExecutionMode,
    ExecutionOrder,
    GraphOptimizationLevel,
    OrtExecutionProviderDevicePolicy,
)
from .errors import argument, refused

CPU = "CPUExecutionProvider"

#: Session configuration entries of fastconv's own: arguments of :func:`fastconv.load`.
OWN_ENTRIES = (
    "fastconv.accuracy", "fastconv.cache", "fastconv.fallback", "fastconv.memory_limit"
)  # fmt: skip


class _Options:
    """Fields with a fixed set of names and types; anything else raises, as in onnxruntime."""

    __slots__: tuple[str, ...] = ("_entries",)
    _FIELDS: ClassVar[Mapping[str, tuple[type, Any]]] = {}
    _entries: dict[str, str]

    def __init__(self) -> None:
        for name, (_, default) in self._FIELDS.items():
            object.__setattr__(self, name, default)
        object.__setattr__(self, "_entries", {})

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._FIELDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        kind, _ = self._FIELDS[name]
        object.__setattr__(self, name, _converted(name, kind, value))

    def __getstate__(self) -> dict[str, Any]:
        return {n: getattr(self, n) for c in type(self).__mro__ for n in _slots(c)}

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

    def _add(self, key: str, value: str) -> None:
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"config entry {key!r}={value!r}: both must be str")
        self._entries[key] = value

    def _get(self, key: str) -> str:
        if key not in self._entries:
            raise argument(
                f"{type(self).__name__} does not have configuration with key: {key}", RuntimeError
            )
        return self._entries[key]


def _slots(cls: type) -> tuple[str, ...]:
    return tuple(getattr(cls, "__slots__", ()))


def _converted(name: str, kind: type, value: Any) -> Any:
    """A field's value in its own type.

    Raises:
        TypeError: it has another type.
        OptionError: it is no member of the enumeration.
    """
    if issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            names = ", ".join(m.name for m in kind)
            raise argument(f"{name}={value!r}: expected one of {names}", TypeError) from None
    if kind in (int, bool) and hasattr(value, "__index__"):
        return kind(operator.index(value))
    if type(value).__name__ in ("bool_", "bool") and kind in (int, bool):
        return kind(value)  # NumPy's
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, kind):
        raise TypeError(f"{name}={value!r}: expected {kind.__name__}")
    return value


class SessionOptions(_Options):
    """Options of a session.

    These have an effect:
        intra_op_num_threads: threads per run; 0 or -1 for the physical cores this process may use.
        use_per_session_threads: when False, the number that ``set_global_thread_pool_sizes`` was
            given is used instead.
        graph_optimization_level: ``ORT_DISABLE_ALL`` runs every node as it stands in the file.
        log_severity_level: 3 (error) or higher silences the warning about slow operators; -1 is the
            level that ``set_default_logger_severity`` was given (2).
        enable_profiling, profile_file_prefix: see ``InferenceSession.end_profiling``.
        optimized_model_filepath: the model is written there as it came; fastconv's optimised form
            is not an ONNX model.

    The rest is accepted for the sake of programs that set it: memory is always planned and reused,
    results never depend on the number of threads, nodes run in order, and there is no log.
    """

    _FIELDS: ClassVar = {
        "enable_cpu_mem_arena": (bool, True),
        "enable_mem_pattern": (bool, True),
        "enable_mem_reuse": (bool, True),
        "enable_profiling": (bool, False),
        "execution_mode": (ExecutionMode, ExecutionMode.ORT_SEQUENTIAL),
        "execution_order": (ExecutionOrder, ExecutionOrder.DEFAULT),
        "graph_optimization_level": (GraphOptimizationLevel, GraphOptimizationLevel.ORT_ENABLE_ALL),
        "inter_op_num_threads": (int, 0),
        "intra_op_num_threads": (int, 0),
        "log_severity_level": (int, -1),
        "log_verbosity_level": (int, 0),
        "logid": (str, ""),
        "optimized_model_filepath": (str, ""),
        "profile_file_prefix": (str, "onnxruntime_profile_"),
        "use_deterministic_compute": (bool, False),
        "use_per_session_threads": (bool, True),
    }
    __slots__ = (*_FIELDS, "_dimensions", "_provider_list")
    _dimensions: dict[str, int]
    _provider_list: list[tuple[str, dict[str, str]]]
    enable_profiling: bool
    graph_optimization_level: GraphOptimizationLevel
    intra_op_num_threads: int
    log_severity_level: int
    optimized_model_filepath: str
    profile_file_prefix: str
    use_per_session_threads: bool

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "_dimensions", {})
        object.__setattr__(self, "_provider_list", [])

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Store a configuration entry.

        ``fastconv.memory_limit``, ``fastconv.accuracy``, ``fastconv.fallback`` and
        ``fastconv.cache`` (a folder, or "1" or "0") are the arguments of :func:`fastconv.load`; no
        other entry has an effect.
        """
        self._add(key, value)

    def get_session_config_entry(self, key: str) -> str:
        """A configuration entry.

        Raises:
            OptionError: it was never added (a ``RuntimeError`` too, as in onnxruntime).
        """
        return self._get(key)

    def add_free_dimension_override_by_name(self, name: str, value: int) -> None:
        """Fix a symbolic dimension of the inputs, by its name in the file, to a size ≥ 0."""
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < 0:
            raise argument(f"dimension {name!r}={value!r}: expected a whole number ≥ 0")
        self._dimensions[name] = value.__index__()

    def add_free_dimension_override_by_denotation(self, denotation: str, value: int) -> None:
        """Not possible: denotations are not read.

        Raises:
            UnsupportedError: always.
        """
        raise refused(
            f"dimension of denotation {denotation!r}: only a dimension's name can be overridden; "
            "use add_free_dimension_override_by_name"
        )

    def add_initializer(self, name: str, value: Any) -> None:
        """Not possible.

        Raises:
            UnsupportedError: always.
        """
        raise refused(f"initializer {name!r}: initializers of a model cannot be replaced")

    def add_external_initializers(self, names: Iterable[str], values: Iterable[Any]) -> None:
        """Not possible; raises ``UnsupportedError``."""
        raise refused(f"initializers {list(names)}: initializers of a model cannot be replaced")

    def add_external_initializers_from_files_in_memory(self, *args: Any) -> None:
        """Not possible; raises ``UnsupportedError``."""
        raise refused("external initializers are read from files beside the model only")

    def register_custom_ops_library(self, path: str) -> None:
        """Not possible.

        Raises:
            UnsupportedError: always.
        """
        raise refused(
            f"{path!r}: libraries of operators for onnxruntime cannot be loaded; "
            "define the operator as a model-local function instead"
        )

    # Execution providers: there is the CPU.

    def add_provider(self, name: str, options: Mapping[str, str]) -> None:
        """Ask for an execution provider; the session warns about one that does not exist."""
        self._provider_list.append((str(name), dict(options)))

    def add_provider_for_devices(self, devices: Sequence[Any], options: Mapping[str, str]) -> None:
        """Ask for the provider of these ``OrtEpDevice``."""
        names = {d.ep_name for d in devices}
        if len(names) != 1:
            raise argument(f"devices of {len(names)} execution providers; expected those of one")
        self.add_provider(names.pop(), options)

    def has_providers(self) -> bool:
        """Whether a provider was asked for here."""
        return bool(self._provider_list)

    def set_provider_selection_policy(self, policy: OrtExecutionProviderDevicePolicy) -> None:
        """Accepted: there is nothing to choose from."""
        OrtExecutionProviderDevicePolicy(policy)

    def set_provider_selection_policy_delegate(self, delegate: Any) -> None:
        """Accepted: there is nothing to choose from."""

    def set_load_cancellation_flag(self, value: bool) -> None:
        """Accepted; loading cannot be cancelled."""

    # What it comes to.

    def load_arguments(self) -> dict[str, Any]:
        """Arguments of :func:`fastconv.load`.

        Raises:
            OptionError: a ``fastconv.`` entry is unknown, or makes no sense.
        """
        threads = self.intra_op_num_threads
        if not self.use_per_session_threads:
            threads = _global["threads"]
        severity = self.log_severity_level if self.log_severity_level >= 0 else _global["severity"]
        level = self.graph_optimization_level
        arguments = {
            "threads": 0 if threads == -1 else threads,
            "fallback": "allow" if severity >= 3 else "warn",
            "optimize": level != GraphOptimizationLevel.ORT_DISABLE_ALL,
        }
        for key, value in self._entries.items():
            if not key.startswith("fastconv."):
                continue
            if key not in OWN_ENTRIES:
                raise OptionError(f"config entry {key!r}: expected one of {', '.join(OWN_ENTRIES)}")
            number = key == "fastconv.memory_limit" and value.isdecimal()
            switch = {"0": False, "1": True} if key == "fastconv.cache" else {}
            arguments[key.partition(".")[2]] = int(value) if number else switch.get(value, value)
        return arguments


class RunOptions(_Options):
    """Options of one run.

    ``terminate`` has an effect: a run that was given the options raises ``Fail`` when it is True
    before the run, when it ends, or where a model is cut because shapes depend on data. A part
    between cuts is not interrupted. Set it from another thread, and back to False for the next run.

    The rest is accepted: there is no log, and what no output needs never runs.
    """

    _FIELDS: ClassVar = {
        "log_severity_level": (int, -1),
        "log_verbosity_level": (int, 0),
        "logid": (str, ""),
        "only_execute_path_to_fetches": (bool, False),
        "terminate": (bool, False),
    }
    __slots__ = tuple(_FIELDS)
    terminate: bool

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Store a configuration entry; none of them has an effect."""
        self._add(key, value)

    def get_run_config_entry(self, key: str) -> str:
        """A configuration entry.

        Raises:
            OptionError: it was never added (a ``RuntimeError`` too, as in onnxruntime).
        """
        return self._get(key)

    def add_active_adapter(self, adapter: Any) -> None:
        """Not possible; raises ``UnsupportedError``."""
        raise refused("LoRA adapters are not supported")


_global = {"severity": 2, "threads": 0}


def set_default_logger_severity(severity: int) -> None:
    """The level of sessions that set none: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal.

    From 3 on, the warning about slow operators is silenced; there is no other log.

    Raises:
        OptionError: the level is not from 0 to 4 (a ``RuntimeError`` too, as in onnxruntime).
    """
    if not hasattr(severity, "__index__"):
        raise TypeError(f"severity={severity!r}: expected int")
    if not 0 <= operator.index(severity) <= 4:
        raise argument(
            f"Invalid logging severity {severity}: expected 0 (verbose) to 4 (fatal)", RuntimeError
        )
    _global["severity"] = operator.index(severity)


def set_default_logger_verbosity(verbosity: int) -> None:
    """Accepted: there is no log."""


def set_default_logger_callback(callback: Any, severity: int = 2) -> None:
    """Set the severity; there are no messages that the callback could be called with.

    Raises:
        OptionError: the level is not from 0 to 4.
    """
    before = _global["severity"]
    set_default_logger_severity(severity)
    if callback is None:
        _global["severity"] = before


def set_global_thread_pool_sizes(
    intra_op_num_threads: int = 0, inter_op_num_threads: int = 0
) -> None:
    """Threads per run of sessions whose options have ``use_per_session_threads`` False."""
    _global["threads"] = operator.index(intra_op_num_threads)


def get_default_session_options() -> SessionOptions:
    """New options with every field at its default."""
    return SessionOptions()


__all__ = [
    "CPU",
    "RunOptions",
    "SessionOptions",
    "get_default_session_options",
    "set_default_logger_callback",
    "set_default_logger_severity",
    "set_default_logger_verbosity",
    "set_global_thread_pool_sizes",
]
