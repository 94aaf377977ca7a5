from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from selfcluster.models.encoders import create_encoder
from selfcluster.models.filters import Sobel
from selfcluster.models.heads import Prototypes, TopLayer, UnitNorm, projection_head
from selfcluster.models.model import ClusterModel, Outputs

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


# ---- outputs ------------------------------------------------------------------------------------------------------------------


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
def test_channels_last_has_the_same_scores(encoder: str) -> None:
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
    # A resumed run would otherwise differ from an uninterrupted one.
    torch.manual_seed(0)
    prototypes, again = Prototypes((500,), 128), Prototypes((500,), 128)
    again.load_state_dict(prototypes.state_dict())
    assert torch.equal(again.weight, prototypes.weight)


def test_normalization_does_not_change_the_gradient_of_prototypes() -> None:
    prototypes, z = Prototypes((3,), 4), torch.randn(5, 4)
    prototypes(z)[0].sum().backward()
    torch.testing.assert_close(prototypes.weight.grad, z.sum(dim=0).expand(3, 4))


# ---- several heads, DeepCluster's top layer, Sobel ----------------------------------------------------------------------------


def test_heads_are_stacked_in_one_matrix() -> None:
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
    top.reinitialize(torch.full((20, 128), 2.0))
    assert top.weight is weight, "data parallelism and optimizers refer to the parameter"
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


def test_sobel_filters_the_mean_of_the_channels_and_is_fixed() -> None:
    x = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Sobel()(x), Sobel()(x.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)))
    assert list(Sobel().parameters()) == []
    assert Sobel().state_dict() == {}


def test_an_encoder_behind_sobel_has_two_channels() -> None:
    encoder = create_encoder("resnet10_small_quarter", (16, 8), channels=2)
    model = ClusterModel(encoder, 128, head=projection_head(128, 0, 8), prototypes=Prototypes((4,), 8), n_assign=2, sobel=True)
    assert encoder.conv1.weight.shape[1] == 2
    assert model(_crops()).scores[0].shape == (5, N_IMAGES, 4)
