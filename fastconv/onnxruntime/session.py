"""``InferenceSession``: a model behind onnxruntime's Python API, on the CPU."""

from __future__ import annotations

import os
import shutil
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import FastconvError, InputError, OptionError
from ..model import Model, TensorInfo
from .binding import IOBinding
from .devices import OrtEpDevice, OrtMemoryInfo, get_available_providers, get_ep_devices
from .errors import Fail, InvalidArgument, argument, of_load, of_run, refused, status
from .options import CPU, RunOptions, SessionOptions
from .trace import Parts, Trace
from .values import OrtValue

#: ``ModelMetadata.version`` of a file that states none, or 0.
NO_VERSION = (1 << 63) - 1

#: NumPy dtype name → ONNX's, where they differ.
_ONNX_NAMES = {
    "float32": "float", "float64": "double", "object": "string", "str": "string",
    "float8_e4m3fn": "float8e4m3fn", "float8_e4m3fnuz": "float8e4m3fnuz",
    "float8_e5m2": "float8e5m2", "float8_e5m2fnuz": "float8e5m2fnuz",
    "float8_e8m0fnu": "float8e8m0", "float4_e2m1fn": "float4e2m1",
}  # fmt: skip


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
    """What the file says about itself; ``version`` is 2⁶³ - 1 when it states none."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom_metadata_map: dict[str, str]


class Session:
    """Base of sessions; see :class:`InferenceSession`."""


class InferenceSession(Session):
    """A model ready to run. Safe to run from many threads at once; pickles.

    Its errors are instances of fastconv's exceptions and of those in
    ``fastconv.onnxruntime.capi.onnxruntime_pybind11_state``.

    Args:
        path_or_bytes: path of an .onnx file, or its bytes.
        sess_options: a :class:`SessionOptions`.
        providers: names of execution providers, or pairs of name and options, in order of
            preference. Those that do not exist are warned about; the CPU always serves.
        provider_options: one mapping per provider.
        kwargs: other arguments of onnxruntime's (``disabled_optimizers`` …) are ignored.

    Raises:
        ModelError: the file is not a sound ONNX model (``NoSuchFile``, ``InvalidProtobuf``,
            ``InvalidGraph``).
        UnsupportedError: the model, or an option, needs something that fastconv does not do
            (``NotImplemented``).
        OptionError: an option makes no sense (``InvalidArgument``).
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
            raise argument(
                f"sess_options is {type(sess_options).__name__}; expected SessionOptions", TypeError
            )
        options = sess_options or SessionOptions()
        if providers is None and options._provider_list:
            _check_providers(options._provider_list, None)
        _check_providers(providers, provider_options)
        self._sess_options = options
        self._enable_fallback = bool(kwargs.get("enable_fallback", True))
        self._trace: Trace | None = None
        began = time.monotonic_ns()
        if options.enable_profiling:
            self._trace = Trace(options.profile_file_prefix)
            weakref.finalize(self, self._trace.finish)
        try:
            model = Model(path_or_bytes, **options.load_arguments())
        except FastconvError as e:
            raise of_load(e, path_or_bytes) from e.__cause__
        self._model = model
        self._source = model._source
        self._model_path = model._source if isinstance(model._source, str) else None
        self._model_bytes = model._source if isinstance(model._source, bytes) else None
        args = [node_arg(i) for i in model.inputs]
        stated = model.stated_outputs()
        named = {d for i in model.inputs for d in i.shape or () if isinstance(d, str)}
        results = [_output(o, s, named) for o, s in zip(model.outputs, stated, strict=True)]
        if options._dimensions:
            _override(model, options._dimensions)
            args = [_fixed(a, options._dimensions) for a in args]
            results = [_fixed(a, options._dimensions) for a in results]
        self._inputs_meta, self._outputs_meta = args, results
        self._providers = [CPU]
        self._provider_options: dict[str, dict[str, Any]] = {CPU: {}}
        self._names = [o.name for o in model.outputs]
        self._known = frozenset(self._names)
        if options.optimized_model_filepath:
            _save(model, options.optimized_model_filepath)
        if self._trace is not None:
            self._trace.add("Session", "session_initialization", began, time.monotonic_ns() - began)

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self._source, "options": self._sess_options}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # given when the session was first made
            InferenceSession.__init__(self, state["source"], state["options"])

    def __repr__(self) -> str:
        return f"<fastconv.InferenceSession of {self._model!r}>"

    # Running.

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
    ) -> list[Any]:
        """Run the model.

        Args:
            output_names: which outputs to return, in this order; None or empty for all.
            input_feed: an array (or a list, or an ``OrtValue``) for every input, by name.
            run_options: see :class:`RunOptions`.

        Returns:
            One array (a list of arrays for a sequence) per output.

        Raises:
            InputError: an unknown name, a missing input, or a wrong dtype, rank or shape
                (``InvalidArgument``).
            FastconvError: a node failed (``RuntimeException``), or the run was told to end
                (``Fail``).
        """
        model = self._model
        try:
            if output_names and not self._known.issuperset(output_names):
                raise self._no_output(output_names)
            if run_options is None and self._trace is None:
                outs = model.run_all(input_feed, _arrays)
            else:
                arrays = _arrays(input_feed)
                model = model.for_feeds(arrays)
                outs = self._run_watched(model, model.check_feeds(arrays), run_options)
        except FastconvError as e:
            raise of_run(e) from e.__cause__
        return [outs[n] for n in output_names or self._names]

    def _no_output(self, names: Sequence[str]) -> InputError:
        if isinstance(names, str):
            return InputError(f"output_names={names!r}: expected a list of names, [{names!r}]")
        name = next(n for n in names if n not in self._known)
        return InputError(f"no output {name!r}; the model has {', '.join(self._names)}")

    def _run_watched(
        self, model: Model, feeds: Mapping[str, Any], options: RunOptions | None
    ) -> dict[str, Any]:
        """Run with profiling, or with options that may end it."""
        if options is not None and not isinstance(options, RunOptions):
            raise OptionError(f"run_options is {type(options).__name__}; expected RunOptions")

        def check() -> None:
            if options is not None and options.terminate:
                error = FastconvError("Exiting due to terminate flag being set to true.")
                raise status(error, Fail)

        trace = self._trace if self._trace is not None and self._trace.active else None
        parts = None if trace is None else Parts()
        start = time.monotonic_ns()
        outs = model.run_checked(feeds, parts, None if options is None else check)
        if trace is not None and parts is not None:
            trace.add_run(parts, start, time.monotonic_ns())
        check()
        return outs

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[Any], Any, str], Any],
        user_data: Any,
        run_options: RunOptions | None = None,
    ) -> None:
        """Run in another thread and return at once.

        Args:
            output_names, input_feed, run_options: as of :meth:`run`.
            callback: called in that thread with the results, ``user_data`` and ``""``, or after an
                error with ``[]``, ``user_data`` and its message.
            user_data: anything.

        Raises:
            InputError: an input is missing.
        """
        missing = [i.name for i in self._inputs_meta if i.name not in input_feed]
        if missing:
            text = f"Required inputs ({missing}) are missing from input feed ({[*input_feed]})."
            raise status(InputError(text), InvalidArgument)
        feed = dict(input_feed)

        def work() -> None:
            try:
                results = self.run(output_names, feed, run_options)
            except Exception as e:
                callback([], user_data, str(e) or type(e).__name__)
            else:
                callback(results, user_data, "")

        threading.Thread(target=work, name="fastconv-run-async").start()

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]:
        """The same as :meth:`run`, with ``OrtValue`` in and out."""
        return [OrtValue(r) for r in self.run(output_names, input_dict_ort_values, run_options)]

    def run_with_ortvaluevector(
        self,
        run_options: RunOptions | None,
        feed_names: Sequence[str],
        feeds: Sequence[OrtValue],
        fetch_names: Sequence[str],
        fetches: list[OrtValue],
        fetch_devices: Any,
    ) -> None:
        """The same as :meth:`run`, with lists of ``OrtValue``; the results replace ``fetches``."""
        feed = dict(zip(feed_names, feeds, strict=True))
        fetches[:] = self.run_with_ort_values(fetch_names, feed, run_options)

    def io_binding(self) -> IOBinding:
        """A new binding of inputs and outputs."""
        return IOBinding(self)

    def run_with_iobinding(
        self, iobinding: IOBinding, run_options: RunOptions | None = None
    ) -> None:
        """Run on what is bound.

        Raises:
            InputError: it does not fit the model (a ``RuntimeError`` too, as in onnxruntime).
            OptionError: the binding belongs to another session.
        """
        if not isinstance(iobinding, IOBinding) or iobinding._session is not self:
            raise argument("IOBinding must be used with the session that created it.")
        try:
            iobinding.run(run_options)
        except InvalidArgument as e:
            raise status(e, InvalidArgument, RuntimeError) from e.__cause__

    # What it is.

    def get_inputs(self) -> list[NodeArg]:
        """The inputs in order."""
        return list(self._inputs_meta)

    def get_outputs(self) -> list[NodeArg]:
        """The outputs in order."""
        return list(self._outputs_meta)

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Initializers that a caller may replace: those that are inputs of the graph too.

        Before IR version 4 they had to be, and are constants.
        """
        return [node_arg(o) for o in self._model.overridable if self._model.ir_version >= 4]

    def get_modelmeta(self) -> ModelMetadata:
        """What the file says about itself."""
        m = self._model.definition
        return ModelMetadata(
            m.producer_name,
            m.graph.name,
            m.domain,
            m.doc_string,
            m.graph.doc_string,
            m.model_version or NO_VERSION,
            dict(m.metadata),
        )

    def get_session_options(self) -> SessionOptions:
        """The options it was made with."""
        return self._sess_options

    def get_providers(self) -> list[str]:
        """The execution providers in use: the CPU."""
        return list(self._providers)

    def get_provider_options(self) -> dict[str, dict[str, Any]]:
        """The options of each provider in use."""
        return {name: dict(o) for name, o in self._provider_options.items()}

    def set_providers(
        self,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Choose providers; unknown ones are warned about and the CPU stays in use."""
        _check_providers(providers, provider_options)

    def disable_fallback(self) -> None:
        """Nothing to do: there is one provider."""
        self._enable_fallback = False

    def enable_fallback(self) -> None:
        """Nothing to do: there is one provider."""
        self._enable_fallback = True

    def get_input_memory_infos(self) -> list[OrtMemoryInfo]:
        """Where each input's memory is."""
        return [OrtMemoryInfo() for _ in self._inputs_meta]

    def get_output_memory_infos(self) -> list[OrtMemoryInfo]:
        """Where each output's memory is."""
        return [OrtMemoryInfo() for _ in self._outputs_meta]

    def get_input_epdevices(self) -> list[OrtEpDevice]:
        """Which device each input is on."""
        return [get_ep_devices()[0] for _ in self._inputs_meta]

    def create_ortvalue_from_shape_and_type(
        self, shape: Sequence[int], element_type: Any, device_type: str = "cpu", *ids: int
    ) -> OrtValue:
        """See :meth:`OrtValue.ortvalue_from_shape_and_type`."""
        return OrtValue.ortvalue_from_shape_and_type(shape, element_type, device_type, *ids)

    def set_ep_dynamic_options(self, options: Mapping[str, str]) -> None:
        """Accepted; none has an effect."""

    def get_tuning_results(self) -> list[Any]:
        """None: kernels are chosen by rules."""
        return []

    def set_tuning_results(self, results: Any, *, error_on_invalid: bool = False) -> None:
        """Accepted; kernels are chosen by rules."""

    def release_captured_graph(self, graph_annotation_id: int = 0) -> None:
        """Nothing to do: graphs are captured on GPUs."""

    def get_profiling_start_time_ns(self) -> int:
        """When profiling began, in nanoseconds of ``time.monotonic_ns``; 0 without profiling."""
        return self._trace.start if self._trace is not None else 0

    def end_profiling(self) -> str:
        """Stop profiling and write the profile.

        ``SessionOptions.enable_profiling`` starts it. The file is a Chrome trace: an event for
        each step of each run, with the time it took as the executor measured it, and one for each
        run. A step is a node, or several that were fused, named after the first. Nodes whose output
        shape depends on data share one event where several run at the same place.

        Returns:
            The file's name: ``profile_file_prefix``, the time and ``.json``. "" without profiling,
            and from the second call on.

        Raises:
            OptionError: the file cannot be written.
        """
        return self._trace.finish() if self._trace is not None else ""

    @property
    def _sess(self) -> InferenceSession:
        return self


def _arrays(feed: Any) -> Any:
    """A feed with arrays in the place of ``OrtValue``."""
    if isinstance(feed, Mapping) and any(isinstance(v, OrtValue) for v in feed.values()):
        return {n: v.feed() if isinstance(v, OrtValue) else v for n, v in feed.items()}
    return feed


def _save(model: Model, path: str) -> None:
    """Write the model as it came.

    Raises:
        UnsupportedError: it has external data, which are found by a path from the file.
        OptionError: the file cannot be written.
    """
    if model.definition.external_files:
        raise refused("optimized_model_filepath: the model keeps tensors in files of their own")
    try:
        if isinstance(model._source, bytes):
            with open(path, "wb") as f:
                f.write(model._source)
        elif not (os.path.exists(path) and os.path.samefile(path, model._source)):
            shutil.copyfile(model._source, path)
    except OSError as e:
        error = OptionError(
            f"optimized_model_filepath={path!r}: cannot be written: {e.strerror or e}"
        )
        raise status(error, Fail) from None


def _check_providers(providers: Any, options: Any) -> None:
    """Warn about providers that do not exist.

    Raises:
        OptionError: not a list of names, or options that do not go with it.
    """
    if providers is None:
        return
    if isinstance(providers, str):
        providers = [providers]
    if not isinstance(providers, Sequence):
        raise argument(f"providers={providers!r}: expected a list of names")
    if options and len(options) != len(providers):
        raise argument(f"{len(options)} provider_options for {len(providers)} providers")
    known = get_available_providers()
    for p in providers:
        name = p[0] if isinstance(p, (tuple, list)) and len(p) == 2 else p
        if not isinstance(name, str):
            raise argument(f"provider {p!r}: expected a name, or a pair of name and options")
        if name not in known:
            warnings.warn(
                f"Specified provider {name!r} is not in available provider names. "
                f"Available providers: {', '.join(known)!r}",
                stacklevel=3,
            )


def node_arg(value: TensorInfo, kind: str = "tensor", element: str | None = None) -> NodeArg:
    """A model input or output as onnxruntime describes it."""
    if element is not None:
        name = element
    elif value.dtype is None:
        name = "?"
    else:
        name = _ONNX_NAMES.get(value.dtype.name, value.dtype.name)
    name = f"tensor({name})"
    wrapped = {"sequence": f"seq({name})", "optional": f"optional({name})", "map": f"map({name})"}
    if kind in wrapped:
        return NodeArg(value.name, wrapped[kind], [])
    return NodeArg(value.name, name, list(value.shape or ()))


def _output(
    value: TensorInfo, stated: tuple[Any, str, str | None] | None, named: set[str]
) -> NodeArg:
    """An output with the shape that the file states, and sizes where only inference knows them.

    What is computed from the inputs' ``named`` sizes, ``(h-2)`` say, has no name itself.
    """
    shape, kind, element = stated or (value.shape, "tensor", None)
    shape = tuple(
        None if isinstance(d, str) and d.startswith("(") and d not in named else d
        for d in shape or ()
    )
    return node_arg(value._replace(shape=shape), kind, element)


def _fixed(arg: NodeArg, sizes: Mapping[str, int]) -> NodeArg:
    """An input or output with numbers in the place of named dimensions."""
    return arg._replace(shape=[sizes.get(d, d) if isinstance(d, str) else d for d in arg.shape])


def _override(model: Model, sizes: Mapping[str, int]) -> None:
    """Put numbers in the place of named dimensions of the inputs."""

    def fix(t: TensorInfo) -> TensorInfo:
        if t.shape is None:
            return t
        dims = tuple(sizes.get(d, d) if isinstance(d, str) else d for d in t.shape)
        return t._replace(shape=dims)

    model._types = {n: fix(t) for n, t in model._types.items()}
    model.inputs = list(model._types.values())


__all__ = [
    "InferenceSession",
    "ModelMetadata",
    "NodeArg",
    "Session",
]
