"""The onnx package's own backend tests, through its own runner.

All cases of its node, simple, pytorch-converted and pytorch-operator suites are run twice: with
``fallback="allow"`` every case must pass but those in ``NOT_PASSING``, and with
``fallback="error"`` only operators in ``THROUGH_THE_REFERENCE`` may be refused. Both tables are
exact: a case that passes although it is listed is a failure too.
"""

import contextlib
import importlib.util
import io
import pathlib
import re
import unittest
import warnings

import pytest
from onnx.backend.test import BackendTest

from fastconv import FastconvError
from fastconv.backend import FastconvBackend

#: Why each case that does not pass does not.
RANDOM = "its expected values are those of NumPy's random generator with a seed of its own"
TRAINING = "training is refused: a model for inference is exported in evaluation mode"
NOT_PASSING = {
    "test_bernoulli": RANDOM,
    "test_bernoulli_expanded": RANDOM,
    "test_bernoulli_double": RANDOM,
    "test_bernoulli_double_expanded": RANDOM,
    "test_bernoulli_seed": RANDOM,
    "test_bernoulli_seed_expanded": RANDOM,
    "test_training_dropout": TRAINING,
    "test_training_dropout_default": TRAINING,
    "test_training_dropout_default_mask": TRAINING,
    "test_training_dropout_mask": TRAINING,
    "test_batchnorm_epsilon_training_mode": TRAINING,
    "test_batchnorm_example_training_mode": TRAINING,
    "test_gradient_of_add": TRAINING,
    "test_gradient_of_add_and_mul": TRAINING,
    "test_attention_4d_causal_fp16_expanded": "expects every node's result rounded to float16; "
    "float16 graphs run in float32",
    "test_loop16_seq_none": "the runner cannot compare a scalar tensor inside a sequence",
}

#: Operators of the cases that only run through onnx.reference.
THROUGH_THE_REFERENCE = {
    "BitCast", "Det", "ImageDecoder", "LinearAttention", "RegexFullMatch", "StringConcat",
    "StringNormalizer", "StringSplit", "TfIdfVectorizer", "ai.onnx.ml.ArrayFeatureExtractor",
    "ai.onnx.ml.Binarizer", "ai.onnx.ml.LabelEncoder", "ai.onnx.ml.TreeEnsemble",
    "ai.onnx.preview.FlexAttention", "ai.onnx.preview.training.Adagrad",
    "ai.onnx.preview.training.Adam", "ai.onnx.preview.training.Momentum",
}  # fmt: skip


class Refusing(FastconvBackend):
    """The backend without the reference to fall back on."""

    @classmethod
    def is_compatible(cls, model, device="CPU", **kwargs):
        return True  # the runner would skip the case instead of failing

    @classmethod
    def prepare(cls, model, device="CPU", **kwargs):
        return super().prepare(model, device, fallback="error")


class Allowing(Refusing):
    """The backend as it is, without the warning."""

    @classmethod
    def prepare(cls, model, device="CPU", **kwargs):
        return FastconvBackend.prepare(model, device, fallback="allow")


def run_all(backend):
    """Case name → None where it passes, else what went wrong."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, while the cases are made
        suites = BackendTest(backend, __name__).test_cases
    for kind, suite in suites.items():
        if "Real" in kind:
            continue  # whole networks, which it would download
        for name in dir(suite):
            if not (name.startswith("test_") and name.endswith("_cpu")):
                continue
            error = None
            try:
                with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    suite(name).debug()
            except (FastconvError, AssertionError, TypeError, unittest.SkipTest) as e:
                error = e
            found[name.removesuffix("_cpu")] = error
    return found


@pytest.fixture(scope="module")
def allowing():
    return run_all(Allowing)


@pytest.fixture(scope="module")
def refusing():
    return run_all(Refusing)


def test_every_case_passes_but_those_listed_with_a_reason(allowing):
    wrong = {n: str(e).strip()[:300] for n, e in allowing.items() if e is not None}
    assert {n: e for n, e in wrong.items() if n not in NOT_PASSING} == {}
    assert [n for n in NOT_PASSING if n not in wrong] == []


def test_at_least_two_thousand_cases_pass(allowing):
    assert sum(e is None for e in allowing.values()) >= 2000


def operators(error):
    """The operators that a refusal names."""
    return set(re.findall(r"node '[^']*' \(([\w.]+), opset", str(error)))


def test_only_the_operators_listed_need_the_reference(allowing, refusing):
    needed = set()
    for name, error in refusing.items():
        if error is not None and name not in NOT_PASSING:
            assert "no native kernel" in str(error), f"{name}: {error}"
            needed |= operators(error)
    assert needed == THROUGH_THE_REFERENCE


#: What convolutional networks are made of: these must never need the reference.
NATIVE = [
    "Conv", "ConvTranspose", "DeformConv", "AveragePool", "MaxPool", "LpPool",
    "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "MaxUnpool", "Gemm", "MatMul",
    "Einsum", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "HardSwish",
    "HardSigmoid", "Sigmoid", "Softmax", "LogSoftmax", "Softplus", "Softsign", "Swish", "Tanh",
    "ThresholdedRelu", "Clip", "BatchNormalization", "InstanceNormalization",
    "GroupNormalization", "LayerNormalization", "RMSNormalization", "LpNormalization",
    "MeanVarianceNormalization", "LRN", "Resize", "GridSample", "AffineGrid", "RoiAlign", "Pad",
    "Slice", "Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "TopK",
    "NonMaxSuppression", "NonZero", "Where", "ReduceSum", "ReduceMean", "ReduceMax",
    "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceSumSquare", "CumSum", "OneHot", "LSTM", "GRU", "RNN", "If", "Loop", "Scan",
    "SequenceMap", "SequenceConstruct", "SequenceAt", "SequenceInsert", "SequenceErase",
    "SequenceLength", "SequenceEmpty", "SplitToSequence", "ConcatFromSequence",
]  # fmt: skip


def test_the_operators_of_convolutional_networks_are_native():
    assert not THROUGH_THE_REFERENCE & set(NATIVE)
    assert set(NATIVE) <= set(operators_tool().table()["native"])


def operators_tool():
    """tools/operators.py as a module."""
    path = pathlib.Path(__file__).parent.parent / "tools" / "operators.py"
    spec = importlib.util.spec_from_file_location("operators", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_operators_says_what_the_cases_show(refusing):
    table = operators_tool().table()
    assert set(table["reference"]) >= THROUGH_THE_REFERENCE
    assert not set(table["native"]) & set(table["reference"])
    assert "ai.onnx.preview.training.Gradient" in table["refused"]


def test_the_table_of_operators_is_printed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["operators.py", "--markdown"])
    operators_tool().main()
    printed = capsys.readouterr().out
    assert "**Refused** (" in printed
    assert "FusedConv, FusedGemm, FusedMatMul" in printed


def test_the_readme_has_that_table(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["operators.py", "--markdown"])
    operators_tool().main()
    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
    for line in filter(None, capsys.readouterr().out.splitlines()):
        assert line in readme, "python tools/operators.py --markdown prints what it should have"
