"""An exported model has no trace of TrAct: the same graph, the same outputs."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import trainact
from tests.parity.table import CASES, FEWEST, LAYERS
from tests.tolerances import FLOAT32_PROMISE, relative_error


class Models:
    """The same model in eval mode, under TrAct and plain, and an input."""

    def __init__(self, name: str) -> None:
        case = CASES[name]
        first = case.layer(torch.float32)
        self.plain = nn.Sequential(first, nn.ReLU(), nn.Flatten(0, -2)).eval()
        self.treated = trainact.apply(copy.deepcopy(self.plain)).eval()
        self.x = case.input(torch.float32)

    @property
    def both(self) -> tuple[nn.Module, nn.Module]:
        return self.treated, self.plain


@pytest.fixture(params=[*LAYERS, "named", "centred linear"])
def models(request) -> Models:
    return Models(request.param)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    # Strict export goes through it, and it counts what one function was compiled for.
    torch._dynamo.reset()


def targets(graph: torch.fx.Graph) -> list[str]:
    """What the nodes do; placeholders are called after a layer's class, so not they."""
    return [
        f"{node.op} {node.target if node.op.startswith('call') else ''}"
        for node in graph.nodes
    ]


@pytest.mark.parametrize(
    ("name", "strict"),
    [(name, False) for name in CASES] + [(name, True) for name in FEWEST],
)
def test_torch_export(name: str, strict: bool) -> None:
    models = Models(name)
    treated, plain = (
        torch.export.export(m, (models.x,), strict=strict) for m in models.both
    )
    assert targets(treated.graph) == targets(plain.graph)
    assert torch.equal(treated.module()(models.x), models.plain(models.x))
    buffer = io.BytesIO()
    torch.export.save(treated, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    assert torch.equal(loaded(models.x), models.plain(models.x))


def test_torch_export_for_any_batch_size() -> None:
    models = Models("conv2d, groups")
    shapes = ({0: torch.export.Dim("batch", min=2, max=64)},)
    program = torch.export.export(models.treated, (models.x,), dynamic_shapes=shapes)
    x = torch.cat([models.x, models.x])
    assert torch.equal(program.module()(x), models.plain(x))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["linear", "std conv"])
def test_torch_export_in_training_mode_is_refused(name: str, strict: bool) -> None:
    models = Models(name)
    model, x = models.treated.train(), (models.x,)
    error = torch._dynamo.exc.Unsupported if strict else RuntimeError
    with pytest.raises(error, match=r"exported in training mode: call model\.eval\(\)"):
        torch.export.export(model, x, strict=strict)
    # Nothing is trained: there is nothing to lose.
    model[0].requires_grad_(False)
    treated = torch.export.export(model, x, strict=strict)
    plain = torch.export.export(models.plain.train(), x, strict=strict)
    assert len(treated.graph.nodes) == len(plain.graph.nodes)


def test_torchscript_trace(models: Models) -> None:
    treated, plain = (torch.jit.trace(m, models.x) for m in models.both)
    kinds = [
        [node.kind() for node in traced.inlined_graph.nodes()]
        for traced in (treated, plain)
    ]
    assert kinds[0] == kinds[1]
    buffer = io.BytesIO()
    torch.jit.save(treated, buffer)
    buffer.seek(0)
    assert torch.equal(torch.jit.load(buffer)(models.x), models.plain(models.x))


def test_torchscript_script_once_removed() -> None:
    # Compiling Python from source reads properties and annotations that it cannot.
    models = Models("conv2d, groups")
    scripted = torch.jit.script(trainact.remove(models.treated))
    assert torch.equal(scripted(models.x), models.plain(models.x))


def test_fx_symbolic_trace(models: Models) -> None:
    class LeafTracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, qualname: str) -> bool:
            leaf = isinstance(m, trainact.TrActLayer)
            return leaf or super().is_leaf_module(m, qualname)

    traced = torch.fx.symbolic_trace(models.treated)
    assert torch.equal(traced(models.x), models.plain(models.x))
    assert not any("trainact" in target for target in targets(traced.graph))
    # Kept whole, the layer trains on in the traced model.
    tracer = LeafTracer()
    traced = torch.fx.GraphModule(models.treated, tracer.trace(models.treated)).train()
    traced(models.x).square().sum().backward()
    gradient = models.treated[0].weight.grad.clone()
    models.treated.zero_grad()
    models.treated.train()(models.x).square().sum().backward()
    assert torch.equal(models.treated[0].weight.grad, gradient)


@pytest.mark.parametrize("name", ["conv2d, groups", "centred linear"])
def test_fx_symbolic_trace_in_training_mode_is_refused(name: str) -> None:
    with pytest.raises(torch.fx.proxy.TraceError, match="trace first, then apply"):
        torch.fx.symbolic_trace(Models(name).treated.train())


def onnx_nodes(path: Path) -> list[str]:
    onnx = pytest.importorskip("onnx")
    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.mark.parametrize("name", ["linear", "conv2d, reflect"])
def test_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    models = Models(name)
    for model, file in zip(models.both, ("treated.onnx", "plain.onnx"), strict=True):
        torch.onnx.export(
            model, (models.x,), tmp_path / file, dynamo=True, verbose=False
        )
    nodes = onnx_nodes(tmp_path / "treated.onnx")
    assert nodes == onnx_nodes(tmp_path / "plain.onnx")
    outputs: list[Tensor] = []
    for file in ("treated.onnx", "plain.onnx"):
        session = runtime.InferenceSession(
            str(tmp_path / file), providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: models.x.numpy()}
        outputs.append(torch.as_tensor(session.run(None, feed)[0]))
    assert torch.equal(outputs[0], outputs[1])
    assert relative_error(outputs[0], models.plain(models.x)) < FLOAT32_PROMISE


def test_quantisation_once_removed() -> None:
    # torch.ao chooses layers by their exact type, and would pass over TrAct's.
    quantisation = pytest.importorskip("torch.ao.quantization")
    models = Models("conv2d, groups")
    # From a copy: training goes on with the original.
    ready = trainact.remove(copy.deepcopy(models.treated))
    outputs = []
    with warnings.catch_warnings():
        # torch.ao's notices about its own successor and defaults
        warnings.simplefilter("ignore")
        for model in (ready, models.plain):
            wrapped = quantisation.QuantWrapper(model)
            wrapped.qconfig = quantisation.get_default_qconfig("x86")
            prepared = quantisation.prepare(wrapped.eval())
            prepared(models.x)
            converted = quantisation.convert(prepared)
            outputs.append(converted(models.x))
            assert "Quantized" in repr(converted)
    assert torch.equal(*outputs)
    assert isinstance(models.treated[0], trainact.TrActLayer)


def test_state_dicts_go_both_ways(models: Models) -> None:
    treated, plain = models.both
    assert list(treated.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        treated[0].weight.normal_()
    plain.load_state_dict(treated.state_dict(), strict=True)
    assert torch.equal(plain(models.x), treated(models.x))
    with torch.no_grad():
        plain[0].weight.normal_()
    treated.load_state_dict(plain.state_dict(), strict=True, assign=True)
    treated.train()(models.x).sum().backward()
    assert treated[0].weight.grad is not None
