"""Following an example input: what it passes, where it stops, what it leaves."""

from __future__ import annotations

import copy
from collections import defaultdict

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

import trainact
from trainact.find.first_layers import find_first_layers

IMAGE = torch.zeros(2, 3, 16, 16)


class Front(nn.Module):
    """Steps without parameters, then a layer that is not registered first."""

    def __init__(self, step, layer: nn.Module):
        super().__init__()
        self.step = step
        self.last = nn.Linear(5, 2)
        self.layer = layer
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))

    def forward(self, x):
        z = self.layer(self.step((x - self.mean) / 0.25))
        return self.last(z.flatten(1)[:, :5])


def written_into_zeros(x):
    canvas = torch.zeros(2, 3, 20, 20, device=x.device)
    for i in range(2):
        canvas[i, :, 2:18, 2:18].copy_(x[i])
    return canvas


def looked_up_in_constants(x):
    """Code that reads values of constants made where the input is."""
    grid = torch.arange(x.shape[-1], device=x.device)
    assert int(grid.max()) == 15
    return x[..., grid.flip(0)]


# An operator of one's own: gives nothing back, writes to a keyword argument.
torch.library.define("tract_tests::double_into", "(Tensor x, *, Tensor(a!) out) -> ()")


@torch.library.impl("tract_tests::double_into", "CompositeExplicitAutograd")
def double_into(x, *, out):
    out.copy_(2 * x)


def written_by_an_operator(x):
    out = torch.zeros_like(x)
    torch.ops.tract_tests.double_into(x, out=out)
    return out


STEPS = {
    "normalise": lambda x: x,
    "frozen norm": lambda x: F.batch_norm(x, *torch.ones(2, 3), training=False),
    "pad": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "channels last": lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    "concatenate": lambda x: torch.cat([x[:, 2:], x[:, :2]], 1),
    "flip": lambda x: x.flip(-1),
    "resize": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "in place": lambda x: x.clone().sub_(0.5).clamp_(0, 1),
    "statistics": lambda x: (x - x.mean((2, 3), keepdim=True)) / (x.std() + 1),
    "written into zeros": written_into_zeros,
    "written by an operator": written_by_an_operator,
    "looked up": looked_up_in_constants,
    "image of bytes": lambda x: x.to(torch.uint8).float() / 255,
}
RESHAPED = {
    "space to depth": (lambda x: F.pixel_unshuffle(x, 4), nn.Conv2d(48, 8, 1)),
    "unfold": (lambda x: F.unfold(x, 4, stride=4).mT, nn.Linear(48, 8)),
    "flatten": (lambda x: x.flatten(1), nn.Linear(768, 8)),
    "rows as a sequence": (lambda x: x.flatten(2), nn.Conv1d(3, 8, 3)),
    "as a clip": (lambda x: x[:, :, None], nn.Conv3d(3, 8, (1, 3, 3))),
    "spectrum": (
        lambda x: torch.view_as_real(torch.fft.rfft2(x)).flatten(1),
        nn.Linear(2 * 3 * 16 * 9, 8),
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_what_has_no_parameters_is_passed(step: str) -> None:
    model = Front(STEPS[step], nn.Conv2d(3, 8, 3))
    assert list(trainact.first_layers(model, IMAGE)) == ["layer"]


@pytest.mark.parametrize("name", RESHAPED)
def test_reshaped_inputs_are_followed(name: str) -> None:
    step, layer = RESHAPED[name]
    model = Front(step, layer)
    assert trainact.first_layers(model, IMAGE) == {"layer": layer}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_nothing_large_is_computed(device: str) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(10**6, 10**6), nn.ReLU())
    image = torch.zeros(4, 10**6, device=device)
    assert list(trainact.first_layers(model, image)) == ["1"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_recurrent_layer_behind(device: str) -> None:
    with torch.device(device):
        model = Tokens(nn.Sequential(nn.Linear(16, 4), nn.GRU(4, 8)))
    assert list(trainact.first_layers(model, IMAGE[0])) == ["layer.0"]


class Skip(nn.Module):
    """The raw image comes back later: with features, or alone."""

    def __init__(self, with_features: bool):
        super().__init__()
        self.with_features = with_features
        self.late = nn.Conv2d(7 if with_features else 3, 4, 1)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        h = self.stem(x).relu()
        if self.with_features:
            return self.late(torch.cat([h, x], 1))
        return h + self.late(x)


def test_a_layer_that_sees_features_and_the_image_is_not_first() -> None:
    assert list(trainact.first_layers(Skip(True), IMAGE)) == ["stem"]


def test_a_late_layer_that_sees_the_image_alone_is_first_too() -> None:
    assert list(trainact.first_layers(Skip(False), IMAGE)) == ["stem", "late"]


class Pyramid(nn.Module):
    """One layer for two scales, another for a third."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(3, 4, 3)
        self.coarse = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        scales = [F.avg_pool2d(x, k) for k in (1, 2, 4)]
        maps = [self.shared(scales[0]), self.shared(scales[1]), self.coarse(scales[2])]
        return sum(m.mean((2, 3)) for m in maps)


def test_several_scales() -> None:
    assert list(trainact.first_layers(Pyramid(), IMAGE)) == ["shared", "coarse"]


class Scaled(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.scale = nn.Parameter(torch.ones(1, 3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.how(self, x)


class OwnConvolution(nn.Module):
    """A custom leaf that calls the functional convolution."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(4, 3, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.kernel)


class Tokens(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        out = self.layer(x)
        return self.head(out[0] if isinstance(out, tuple) else out)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = x.flatten(2).permute(2, 0, 1)
        return self.head(self.attention(x, x, x)[0])


def learned_beside(self, x):
    learned = self.scale[:, :1].expand(2, 1, 16, 16)
    return self.conv(torch.cat([x[:, :2], learned], 1))


REFUSED = {
    "a bare scale": (
        Scaled(lambda self, x: self.conv(x * self.scale)),
        IMAGE,
        r"is a Scaled: .*meets 'scale' in 'mul'.*Candidates, in order: 'conv'",
    ),
    "a learned mean": (
        Scaled(lambda self, x: self.conv(x - self.scale)),
        IMAGE,
        r"meets 'scale' in 'sub'",
    ),
    "learned channels beside the image": (
        Scaled(learned_beside),
        IMAGE,
        r"meets 'scale' in 'cat'",
    ),
    "a weight used elsewhere": (
        Scaled(lambda self, x: F.conv2d(x, self.conv.weight)),
        IMAGE,
        r"layer 'conv': 'conv\.weight' is used by '', not in its own layer's forward",
    ),
    "a custom convolution": (
        nn.Sequential(OwnConvolution(), nn.ReLU(), nn.Conv2d(4, 4, 1)),
        IMAGE,
        r"'0' is a OwnConvolution: TrAct trains Linear and Conv1d/2d/3d",
    ),
    "a norm": (
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
        IMAGE,
        r"'0' is a BatchNorm2d: .*a norm with trained scales in front",
    ),
    "a lookup": (
        Tokens(nn.Embedding(10, 8)),
        torch.zeros(2, 5, dtype=torch.long),
        r"'layer' is a Embedding: .*a table is looked up",
    ),
    "a recurrent layer": (
        Tokens(nn.LSTM(16, 8)),
        IMAGE[0],
        r"'layer' is a LSTM: .*recurrent",
    ),
    "attention": (Attention(), IMAGE, r"'attention' is a MultiheadAttention"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_which_and_why(case: str) -> None:
    model, example, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        trainact.first_layers(model, example)


class Gated(nn.Module):
    """What the image says decides what becomes of it, before the stem."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.look = nn.Conv2d(3, 6, 16)
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.body(self.stem(self.how(x, self.look(x)))) + x.mean()


def excited(x, z):
    return x * z[:, :3].sigmoid()


def excited_in_place(x, z):
    return (x * 1).mul_(z[:, :3].sigmoid()).flip(-1)


def warped(x, z):
    return F.grid_sample(x, F.affine_grid(z.view(2, 2, 3), x.shape))


@pytest.mark.filterwarnings("ignore:Default grid_sample:UserWarning")
@pytest.mark.parametrize("how", [excited, excited_in_place, warped])
def test_a_gated_image_is_left_to_the_user(how) -> None:
    message = (
        r"layer 'stem': it sees the input times features .*pass layer=\['look'\]\. "
        r"Candidates, in order: 'look' .*'stem'"
    )
    with pytest.raises(ValueError, match=message):
        trainact.first_layers(Gated(how), IMAGE)
    assert list(find_first_layers(Gated(how), IMAGE)) == ["look", "stem"]


def test_an_output_that_scales_the_image_is_no_gate() -> None:
    class Restorer(Gated):
        def forward(self, x):
            return x * self.look(x)[:, :3].sigmoid() + x

    assert list(trainact.first_layers(Restorer(None), IMAGE)) == ["look"]


class TwoStreams(nn.Module):
    def __init__(self, depth: nn.Module):
        super().__init__()
        self.depth = depth
        self.colour = nn.Conv2d(3, 4, 3)

    def forward(self, colour, depth=None):
        z = self.colour(colour).mean((2, 3))
        return z if depth is None else z + self.depth(depth).mean((2, 3))


def test_one_supported_stem_of_two_is_named() -> None:
    example = {"colour": IMAGE, "depth": IMAGE[:, :1]}
    model = TwoStreams(nn.GroupNorm(1, 1))
    with pytest.raises(ValueError, match=r"'depth' is a GroupNorm.*layer=\['colour'\]"):
        trainact.first_layers(model, example)


def test_images_are_followed_and_indices_beside_them_are_not() -> None:
    class Captioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(10, 4)
            self.stem = nn.Conv2d(3, 4, 3)

        def forward(self, pixels, ids, mask):
            text = (self.words(ids) * mask[..., None]).mean(1)
            return self.stem(pixels["image"]).mean((2, 3)) + text

    ids = torch.zeros(2, 5, dtype=torch.long)
    example = ({"image": IMAGE}, ids, torch.ones_like(ids))
    assert list(trainact.first_layers(Captioned(), example)) == ["stem"]


class Denoiser(nn.Module):
    """Takes what the networks of diffusion take: image, time, embedded text, mask."""

    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(4, 8, 3, padding=1)
        self.time = nn.Linear(1, 8)
        self.to_q, self.to_k = nn.Linear(8, 8), nn.Linear(6, 8)
        self.conv_out = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, sample, timestep, encoder_hidden_states, mask=None):
        z = self.conv_in(sample) + self.time(timestep[:, None])[..., None, None]
        query = self.to_q(z.flatten(2).mT)
        key = self.to_k(encoder_hidden_states)
        scores = query @ key.mT
        z = (
            z
            + (scores if mask is None else scores + mask[:, None]).sum((1, 2))[
                :, None, None, None
            ]
        )
        return self.conv_out(z)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("channels", [4, 16])
def test_only_the_image_of_a_diffusion_model_is_followed(device, channels) -> None:
    model = Denoiser()
    model.conv_in = nn.Conv2d(channels, 8, 3, padding=1)
    example = {
        "sample": torch.zeros(2, channels, 8, 8),
        "timestep": torch.ones(2),
        "encoder_hidden_states": torch.zeros(2, 5, 6),
        "mask": torch.zeros(2, 5),
    }
    model, example = model.to(device), {k: v.to(device) for k, v in example.items()}
    assert list(trainact.first_layers(model, example)) == ["conv_in"]


def test_without_an_image_all_vectors_are_followed() -> None:
    class TwoVectors(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, left, right):
            return self.left(left) + self.right(right)

    example = (torch.zeros(2, 3), torch.zeros(2, 7, 5).mean(1))
    assert list(trainact.first_layers(TwoVectors(), example)) == ["left", "right"]


def test_an_image_of_bytes_is_followed() -> None:
    model = Front(lambda x: x, nn.Conv2d(3, 8, 3))
    assert list(trainact.first_layers(model, IMAGE.to(torch.uint8))) == ["layer"]


class OwnForward(nn.Conv2d):
    def forward(self, input):
        return F.conv2d(input, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize(
    "layer",
    [
        OwnForward(3, 8, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, bias=False)),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)),
    ],
    ids=["own forward", "weight norm", "spectral norm"],
)
@pytest.mark.parametrize("example", [None, IMAGE], ids=["structure", "example"])
def test_odd_layers_are_found(layer, example) -> None:
    model = nn.Sequential(nn.Sequential(nn.ReLU(), layer), nn.Conv2d(8, 3, 1))
    assert find_first_layers(model, example) == {"0.1": layer}


class Brancher(nn.Module):
    """What it runs depends on values."""

    def __init__(self):
        super().__init__()
        self.dark = nn.Conv2d(3, 4, 3)
        self.bright = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.bright(x) if x.mean() > 0.5 else self.dark(x)


def test_a_forward_that_depends_on_values_is_run() -> None:
    assert list(trainact.first_layers(Brancher(), IMAGE)) == ["dark"]
    assert list(trainact.first_layers(Brancher(), IMAGE + 1)) == ["bright"]


def test_a_forward_that_depends_on_values_needs_them() -> None:
    with pytest.raises(ValueError, match=r"depends on values .*is on the meta device"):
        trainact.first_layers(Brancher().to("meta"), IMAGE)


def test_branches_on_the_real_run_share_views() -> None:
    """The same rules hold for real tensors: writes reach the views of a canvas."""

    class Canvas(Brancher):
        def forward(self, x):
            canvas = torch.zeros(2, 3, 16, 16)
            view = canvas.flatten(2)
            canvas.copy_(x)
            return super().forward(view.unflatten(2, (16, 16)))

    assert list(trainact.first_layers(Canvas(), IMAGE)) == ["dark"]


class Frozen(dict):
    """Refuses to be changed, as the configuration of diffusers' models does."""

    def update(self, *_, **__):
        raise TypeError("frozen")

    def __setitem__(self, key, value):
        raise TypeError("frozen")


class Keeper(nn.Module):
    """Its forward leaves traces in attributes, containers and buffers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("running", torch.zeros(4))
        self.last = None
        self.cache = {"kept": 1}
        self.lists = defaultdict(list)
        self.history = [0]
        self.config = Frozen(scale=0.5)

    def forward(self, x):
        z = self.norm(self.conv(x))
        self.last = z
        self.cache[x.shape[-1]] = z
        self.lists["seen"].append(z)
        self.history.append(z)
        self.running.add_(z.mean((0, 2, 3)))
        self.new = z
        return F.dropout(z, training=True)


def test_following_leaves_no_trace() -> None:
    model = Keeper().train()
    model.norm.eval()
    state, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    assert list(trainact.first_layers(model, IMAGE)) == ["conv"]
    assert model.last is None
    assert not hasattr(model, "new")
    assert model.cache == {"kept": 1}
    assert dict(model.lists) == {}
    assert dict(model.config) == {"scale": 0.5}
    assert model.history == [0]
    assert [m.training for m in model.modules()] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_following_leaves_no_trace_where_the_forward_fails() -> None:
    model = Keeper().train()
    model.norm.eps = "no number"
    with pytest.raises(TypeError):
        trainact.first_layers(model, IMAGE)
    assert model.training
    assert model.history == [0]
    assert dict(model.config) == {"scale": 0.5}


def test_what_cannot_be_put_back_keeps_nothing_else_from_it() -> None:
    class Stubborn(Keeper):
        def __setattr__(self, name, value):
            if name == "training" and value and "ran" in self.cache:
                raise ValueError("stays in eval mode")
            super().__setattr__(name, value)

        def forward(self, x):
            z = super().forward(x)
            self.cache["ran"] = True
            return z

    model = nn.Sequential(Keeper(), Stubborn(), nn.Identity())
    model[1].conv = nn.Conv2d(4, 4, 3)
    with pytest.raises(ValueError, match="stays in eval mode"):
        trainact.first_layers(model, IMAGE)
    assert all(module.training for module in model)
    assert model[0].history == model[1].history == [0]


def test_wrappers_are_looked_through() -> None:
    parallel = nn.DataParallel(Skip(False))
    assert list(trainact.first_layers(parallel, IMAGE)) == [
        "module.stem",
        "module.late",
    ]
    compiled = torch.compile(Skip(False))
    found = ["_orig_mod.stem", "_orig_mod.late"]
    assert list(trainact.first_layers(compiled, IMAGE)) == found


class FrozenBackbone(nn.Module):
    """A backbone in inference mode, where operators come whole."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.backbone = backbone

    def forward(self, x):
        with torch.inference_mode():
            z = self.backbone(x)
        return self.head(z.clone())


def test_inference_mode() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten(), nn.Linear(4, 4))
    assert list(trainact.first_layers(FrozenBackbone(backbone), IMAGE)) == [
        "backbone.0"
    ]
    backbone = nn.Sequential(nn.Flatten(1), nn.Linear(768, 4), nn.Linear(4, 4))
    assert list(trainact.first_layers(FrozenBackbone(backbone), IMAGE)) == [
        "backbone.1"
    ]


def test_a_distributed_model_talks_to_no_other_rank() -> None:
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Keeper())
        # With more ranks its forward would wait for them, to share the buffers.
        model.forward = None
        assert list(trainact.first_layers(model, IMAGE)) == ["module.conv"]
    finally:
        dist.destroy_process_group()


def test_autocast_and_half_precision() -> None:
    model = Front(lambda x: x, nn.Conv2d(3, 8, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            before = model(IMAGE)  # the weights are in autocast's cache now
        assert list(trainact.first_layers(model, IMAGE)) == ["layer"]
        assert list(trainact.first_layers(Brancher(), IMAGE)) == ["dark"]
        assert torch.is_autocast_cache_enabled()
        with torch.no_grad():
            assert torch.equal(model(IMAGE), before)
    assert list(trainact.first_layers(model.half(), IMAGE.half())) == ["layer"]


@pytest.mark.gpu
def test_a_model_on_an_accelerator() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    model = Front(looked_up_in_constants, nn.Conv2d(3, 8, 3)).cuda()
    assert list(trainact.first_layers(model, IMAGE)) == ["layer"]
    assert list(trainact.first_layers(Brancher().cuda(), IMAGE.cuda())) == ["dark"]


@pytest.mark.parametrize("example", ["cat.png", {"x": 3}, []])
def test_an_example_without_tensors_is_refused(example) -> None:
    with pytest.raises(ValueError, match="holds no tensor that could be followed"):
        trainact.first_layers(Skip(True), example)


def test_an_example_that_reaches_nothing_is_reported() -> None:
    class Deaf(Skip):
        def forward(self, x):
            return super().forward(torch.zeros_like(x))

    with pytest.raises(ValueError, match=r"reached no parameters.*'late' .*'stem'"):
        trainact.first_layers(Deaf(False), IMAGE)


def test_the_models_own_error_is_shown() -> None:
    with pytest.raises(RuntimeError, match=r"expected input\[2, 4, 16, 16\]"):
        trainact.first_layers(Skip(True), torch.zeros(2, 4, 16, 16))
