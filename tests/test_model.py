from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from selfcluster import distributed
from selfcluster.batch import Outputs
from selfcluster.encoders import create_encoder
from selfcluster.model import BatchNorm, ClusterModel, Prototypes, Sobel, TopLayer, UnitNorm, projection_head, synchronize_batch_norm
from tests.ranks import on_ranks

N_IMAGES = 4


def _model(**changed: int) -> ClusterModel:
    torch.manual_seed(0)
    settings = dict(head_width=32, embedding_width=8, n_prototypes=12, n_assign=2) | changed
    head = projection_head(128, settings["head_width"], settings["embedding_width"])
    prototypes = Prototypes((settings["n_prototypes"],), settings["embedding_width"])
    return ClusterModel(timm.create_model("resnet10_small_quarter"), 128, head=head, prototypes=prototypes, n_assign=settings["n_assign"])


def _crops(n_large: int = 2, n_small: int = 3) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(N_IMAGES, 3, side, side, generator=draw) for side in [16] * n_large + [8] * n_small]


@pytest.fixture(scope="module")
def outputs() -> tuple[ClusterModel, list[Tensor], Outputs]:
    model, crops = _model().eval(), _crops()
    with torch.no_grad():
        return model, crops, model(crops)


# ---- what comes out -----------------------------------------------------------------------------------------------------------


def test_outputs_have_the_promised_shapes(outputs) -> None:
    _, _, out = outputs
    assert out.features.shape == (2, N_IMAGES, 128)
    assert out.embeddings.shape == (5, N_IMAGES, 8)
    assert out.scores[0].shape == (5, N_IMAGES, 12)


def test_embeddings_are_unit_and_scores_cosines(outputs) -> None:
    model, _, out = outputs
    torch.testing.assert_close(out.embeddings.norm(dim=-1), torch.ones(5, N_IMAGES))
    cosines = nn.functional.cosine_similarity(out.embeddings[:, :, None], model.prototypes.weight, dim=-1)
    torch.testing.assert_close(out.scores[0], cosines, rtol=1e-5, atol=1e-6)


def test_outputs_follow_the_order_of_crops(outputs) -> None:
    model, crops, out = outputs
    with torch.no_grad():
        for c, crop in enumerate(crops):
            one = model([crop])
            torch.testing.assert_close(one.embeddings[0], out.embeddings[c], rtol=1e-4, atol=1e-5)
            if c < 2:
                torch.testing.assert_close(one.features[0], out.features[c], rtol=1e-4, atol=1e-5)


def test_sizes_in_any_order_keep_the_order_of_crops(outputs) -> None:
    model, crops, out = outputs
    mixed = [0, 2, 1, 3]
    with torch.no_grad():
        torch.testing.assert_close(model([crops[c] for c in mixed]).scores[0], out.scores[0][mixed], rtol=1e-4, atol=1e-5)


def test_images_of_one_size_share_their_statistics() -> None:
    model, crops = _model(), _crops(n_small=0)
    left = model.encoder(torch.cat(crops))
    assert torch.equal(model(crops).features.flatten(0, 1), left.detach())


def test_features_carry_no_gradient_and_embeddings_do() -> None:
    out = _model()(_crops())
    assert not out.features.requires_grad
    assert out.embeddings.requires_grad
    assert out.scores[0].requires_grad


def test_every_parameter_is_trained() -> None:
    model = _model()
    model(_crops()).scores[0].square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_scores_are_float32_under_bf16() -> None:
    model, crops = _model().eval(), _crops()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.head[:-1](model.encoder(crops[0])).dtype == torch.bfloat16
        out = model(crops)
    assert out.embeddings.dtype == out.scores[0].dtype == torch.float32
    torch.testing.assert_close(out.embeddings.norm(dim=-1), torch.ones(5, N_IMAGES))
    torch.testing.assert_close(out.scores[0], out.embeddings @ model.prototypes.weight.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("encoder", ["resnet10_small_quarter", "vit_tiny_patch16_224"])
def test_channels_last_gives_the_same(encoder: str) -> None:
    sizes = (32, 16)
    crops = [torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side)) for side in sizes]
    torch.manual_seed(0)
    made = create_encoder(encoder, sizes)
    head = projection_head(made.num_features, 0, 8)
    model = ClusterModel(made, made.num_features, head=head, prototypes=Prototypes((4,), 8), n_assign=1).eval()
    with torch.no_grad():
        plain = model(crops).scores[0]
        last = model.to(memory_format=torch.channels_last)(crops).scores[0]
    torch.testing.assert_close(last, plain, rtol=1e-3, atol=1e-4)


def test_head_is_the_papers_or_a_single_layer() -> None:
    assert [type(m) for m in projection_head(10, 20, 5)] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, UnitNorm]
    assert [type(m) for m in projection_head(10, 0, 5)] == [nn.Linear, UnitNorm]


# ---- prototypes ---------------------------------------------------------------------------------------------------------------


def _is_unit(prototypes: Prototypes) -> bool:
    return torch.allclose(prototypes.weight.norm(dim=1), torch.ones(len(prototypes.weight)), atol=1e-6)


def test_prototypes_are_unit_rows_from_the_start() -> None:
    prototypes = Prototypes((50,), 16)
    assert _is_unit(prototypes)
    assert [name for name, _ in prototypes.named_parameters()] == ["weight"]
    weight = prototypes.weight
    with torch.no_grad():
        weight.mul_(3)
    prototypes.normalize()
    assert _is_unit(prototypes)
    assert prototypes.weight is weight


def test_prototypes_are_unit_rows_after_loading() -> None:
    model = _model()
    state = model.state_dict()
    state["prototypes.weight"] = 1.01 * torch.nn.functional.normalize(torch.randn(12, 8))
    model.load_state_dict(state)
    assert _is_unit(model.prototypes)
    torch.testing.assert_close(model.prototypes.weight.detach(), state["prototypes.weight"] / 1.01)


def test_loading_unit_rows_keeps_every_bit() -> None:
    # A resumed run would otherwise differ from one that was never stopped.
    torch.manual_seed(0)
    prototypes, again = Prototypes((500,), 128), Prototypes((500,), 128)
    again.load_state_dict(prototypes.state_dict())
    assert torch.equal(again.weight, prototypes.weight)


def test_prototypes_get_their_plain_gradient() -> None:
    prototypes, z = Prototypes((3,), 4), torch.randn(5, 4)
    prototypes(z)[0].sum().backward()
    torch.testing.assert_close(prototypes.weight.grad, z.sum(dim=0).expand(3, 4))


# ---- running statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("synchronized", [False, True])
def test_running_statistics_follow_the_large_crops_only(synchronized: bool) -> None:
    model, crops = _model(), _crops()
    if synchronized:
        synchronize_batch_norm(model)
    alone = copy.deepcopy(model)
    model(crops)
    alone.encoder(torch.cat(crops[:2]))
    for name, buffer in model.encoder.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffer, alone.encoder.get_buffer(name))
    assert model.encoder.bn1.momentum == alone.encoder.bn1.momentum == 0.1


def test_small_crops_are_normalised_by_their_own_batch() -> None:
    model, crops = _model(), _crops()
    features = model.encoder(torch.cat(crops[2:]))
    expected = model.head[0](features)
    seen: list[Tensor] = []
    model.head[0].register_forward_hook(lambda _module, _given, out: seen.append(out))
    model(crops)
    torch.testing.assert_close(seen[0][2 * N_IMAGES :], expected, rtol=1e-4, atol=1e-5)


def test_momentum_comes_back_after_an_error() -> None:
    model = _model()

    def fail_on_small(_module: nn.Module, given: tuple[Tensor]) -> None:
        if given[0].shape[-1] == 8:
            raise RuntimeError("small")

    model.encoder.register_forward_pre_hook(fail_on_small)
    with pytest.raises(RuntimeError, match="small"):
        model(_crops())
    assert model.encoder.bn1.momentum == 0.1


# ---- batch norm over ranks ----------------------------------------------------------------------------------------------------


def _norm(kind: str) -> nn.Module:
    norm = {"1d": nn.BatchNorm1d, "2d": nn.BatchNorm2d, "act": BatchNormAct2d}[kind](4)
    torch.manual_seed(3)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        norm.running_mean.normal_()
    return norm


def _input(kind: str) -> Tensor:
    shape = (8, 4) if kind == "1d" else (8, 4, 3, 5)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + 30
    return x if kind == "1d" else x.contiguous(memory_format=torch.channels_last)


def _pass(norm: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Output, gradients and statistics of one training step with the loss sum(output * weights)."""
    x = x.clone().requires_grad_()
    out = norm(x)
    (out * weights).sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad for name, p in norm.named_parameters()}
    return {"out": out.detach(), "x": x.grad, **gradients, **{name: b.clone() for name, b in norm.named_buffers()}}  # type: ignore[dict-item]


KINDS = pytest.mark.parametrize("kind", ["1d", "2d", "act"])


@KINDS
def test_batch_norm_equals_torchs_in_one_process(kind: str) -> None:
    theirs, x = _norm(kind), _input(kind)
    ours = synchronize_batch_norm(_norm(kind))
    assert isinstance(ours, BatchNorm)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    for _ in range(2):
        left, right = _pass(ours, x, weights), _pass(theirs, x, weights)
        assert left.keys() == right.keys()
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@KINDS
def test_batch_norm_keeps_the_precision_it_is_given(kind: str) -> None:
    x = _input(kind).bfloat16()
    out = BatchNorm(_norm(kind))(x)  # type: ignore[arg-type]
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), _norm(kind)(x.float()), rtol=2e-2, atol=2e-2)


def _pass_on_rank(kind: str, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    mine = distributed.shard_of(len(x))
    return _pass(synchronize_batch_norm(_norm(kind)), x[mine], weights[mine])


@KINDS
def test_batch_norm_on_two_ranks_equals_one_on_the_joined_batch(kind: str) -> None:
    x = _input(kind)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    joined = _pass(_norm(kind), x, weights)
    left, right = on_ranks(_pass_on_rank, kind, x, weights)
    for name in ("out", "x"):
        torch.testing.assert_close(torch.cat([left[name], right[name]]), joined[name], rtol=1e-4, atol=1e-4)
    for name in ("weight", "bias"):  # data parallelism adds these up
        torch.testing.assert_close(left[name] + right[name], joined[name], rtol=1e-4, atol=1e-4)
    for rank in (left, right):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(rank[name], joined[name], rtol=1e-4, atol=1e-4)


def test_every_batch_norm_of_a_network_is_replaced_with_its_state() -> None:
    model = _model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    assert synchronize_batch_norm(model) is model
    assert not [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.state_dict().keys() == before.keys()
    assert all(left is right for left, right in zip(model.parameters(), parameters, strict=True))


def test_a_network_in_eval_mode_stays_in_it() -> None:
    assert not any(m.training for m in synchronize_batch_norm(_model().eval()).modules())


@pytest.mark.parametrize("settings", [{"affine": False}, {"momentum": None}, {"track_running_stats": False}])
def test_batch_norm_refuses_layers_that_it_cannot_stand_for(settings: dict) -> None:
    with pytest.raises(ValueError, match="cannot be taken over ranks"):
        synchronize_batch_norm(nn.Sequential(nn.BatchNorm2d(4, **settings)))


# ---- several heads, DeepCluster's top layer, Sobel ----------------------------------------------------------------------------


def test_heads_stand_below_each_other() -> None:
    torch.manual_seed(0)
    prototypes = Prototypes((3, 5, 2), 4)
    z = nn.functional.normalize(torch.randn(6, 4))
    assert [tuple(head.shape) for head in prototypes.heads()] == [(3, 4), (5, 4), (2, 4)]
    assert torch.equal(torch.cat(prototypes.heads()), prototypes.weight)
    for scores, head in zip(prototypes(z), prototypes.heads(), strict=True):
        torch.testing.assert_close(scores, z @ head.T)
    with torch.no_grad():
        prototypes.heads()[1].copy_(torch.zeros(5, 4))
    assert (prototypes.weight[3:8] == 0).all(), "a head is a view"
    assert (prototypes.weight[:3] != 0).any()


def test_the_top_layer_is_linear_with_bias_and_small_weights() -> None:
    torch.manual_seed(0)
    top = TopLayer(20, 128)
    assert float(top.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert (top.bias == 0).all()
    with torch.no_grad():
        top.bias.copy_(torch.arange(20.0))
    weight, bias, x = top.weight, top.bias, torch.randn(3, 128)
    (scores,) = top(x)
    torch.testing.assert_close(scores, x @ weight.T + bias)
    top.begin_anew(torch.full((20, 128), 2.0))
    assert top.weight is weight, "data parallelism and optimisers hold the parameter"
    assert (weight == 0.02).all()
    assert (bias == 0).all()


def test_the_top_layer_is_float32_under_bf16() -> None:
    top, x = TopLayer(5, 64), torch.randn(3, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (scores,) = top(x.bfloat16())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, x.bfloat16().float() @ top.weight.T, rtol=1e-5, atol=1e-6)


def test_sobel_exact_values() -> None:
    ramp = torch.arange(5.0).expand(1, 3, 5, 5)
    edges = Sobel()(ramp)
    assert edges.shape == (1, 2, 5, 5)
    assert edges[0, 0, 2].tolist() == [-4, -8, -8, -8, 12]
    assert edges[0, 1, 2].tolist() == [0] * 5
    turned = Sobel()(ramp.transpose(2, 3))
    assert torch.equal(turned[0, 1], edges[0, 0].T)
    assert turned[0, 0, :, 2].tolist() == [0] * 5


def test_sobel_sees_the_mean_of_the_channels_and_is_fixed() -> None:
    x = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Sobel()(x), Sobel()(x.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)))
    assert list(Sobel().parameters()) == []
    assert Sobel().state_dict() == {}


def test_an_encoder_behind_sobel_has_two_channels() -> None:
    encoder = create_encoder("resnet10_small_quarter", (16, 8), channels=2)
    model = ClusterModel(encoder, 128, head=projection_head(128, 0, 8), prototypes=Prototypes((4,), 8), n_assign=2, sobel=True)
    assert encoder.conv1.weight.shape[1] == 2
    assert model(_crops()).scores[0].shape == (5, N_IMAGES, 4)
