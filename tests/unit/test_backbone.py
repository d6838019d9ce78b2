import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from models.backbone import build_backbone, weights_digest
from models.errors import BackboneError
from models.graph import embed, identify, preprocessing_of
from models.identity import BackboneConfig
from models.reference import reference_pixels


def built(name, **options):
    return build_backbone(BackboneConfig(name=name, **options))


def identified(name, **options):
    return identify(built(name, **options), "fp32")


def random_weights(folder, name, **options):
    """A saved state dict of a network as timm initialises it, with a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(name, **options)
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    return path


def test_the_default_backbone_is_what_timm_declares():
    identity = identified("efficientnet_lite0")
    preprocessing = identity.preprocessing

    assert identity.name == "efficientnet_lite0"
    assert identity.licence == "Apache-2.0"
    assert identity.embedding_dim == 1280
    assert identity.features == "pre-logits"
    assert identity.total_parameters == 3_371_008
    assert preprocessing.input_size == 224
    assert preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5)
    assert (preprocessing.interpolation, preprocessing.crop_pct) == ("bicubic", 0.875)
    *blocks, pooled = identity.stages
    assert [stage.name for stage in blocks] == [f"blocks.{number}" for number in range(7)]
    assert (blocks[0].shape, blocks[-1].shape) == ((16, 112, 112), (320, 7, 7))
    assert (pooled.name, pooled.shape) == ("pooled", (1280 + 4 * (16 + 24 + 40 + 80 + 112 + 192),))


def test_both_names_of_the_default_backbone_mean_the_same():
    assert identified("tf_efficientnet_lite0") == identified("efficientnet_lite0")


def test_resnet50_counts_its_parameters_without_the_classifier(tmp_path):
    identity = identified("resnet50", weights=random_weights(tmp_path, "resnet50"))

    assert identity.total_parameters == 23_508_032
    assert identity.embedding_dim == 2048
    assert [stage.name for stage in identity.stages] == ["layer1", "layer2", "layer3", "layer4", "pooled"]
    assert identity.licence == "unknown"


def test_the_embedding_may_be_wider_than_the_last_stage(tmp_path):
    """MobileNetV3 pools before its last layer."""
    identity = identified("mobilenetv3_small_050", weights=random_weights(tmp_path, "mobilenetv3_small_050"))

    assert identity.embedding_dim == 1024
    assert identity.stages[-2].shape[0] == 288


def test_an_input_that_is_no_whole_number_of_patches_is_refused(tmp_path):
    path = random_weights(tmp_path, "test_vit")
    with pytest.raises(BackboneError, match="130 isn't a multiple of its patches, 16 pixels"):
        identified("test_vit", weights=path, input_size=130)


def test_a_file_with_any_number_of_classes_loads(tmp_path):
    ten = random_weights(tmp_path, "test_resnet", num_classes=10)

    assert identified("test_resnet", weights=ten).embedding_dim == 96


def test_an_input_size_of_ones_own_is_part_of_the_digest(tmp_path):
    path = random_weights(tmp_path, "test_resnet")

    small, declared = (identified("test_resnet", weights=path, input_size=size) for size in (96, None))

    assert small.preprocessing.input_size == 96
    assert declared.preprocessing.input_size == 160
    assert small.stages[0].shape[1:] == (24, 24)
    assert small.weights_digest == declared.weights_digest
    assert small.digest != declared.digest


def test_a_crop_of_ones_own_is_part_of_the_digest(tmp_path):
    path = random_weights(tmp_path, "test_resnet")

    whole, declared = (identified("test_resnet", weights=path, crop_pct=crop) for crop in (1.0, None))

    assert (whole.preprocessing.crop_pct, declared.preprocessing.crop_pct) == (1.0, 0.95)
    assert whole.weights_digest == declared.weights_digest
    assert whole.digest != declared.digest


def test_a_transformer_resamples_its_positions_to_another_size(tmp_path):
    path = random_weights(tmp_path, "test_vit")

    assert identified("test_vit", weights=path, input_size=128).stages[0].shape == (65, 64)


def test_a_size_that_the_network_cannot_take_is_one_line(tmp_path):
    with pytest.raises(BackboneError, match="backbone test_vit: ") as caught:
        identified("test_vit", weights=random_weights(tmp_path, "test_vit"), input_size=16 * 8 + 1)

    assert "\n" not in str(caught.value)


def test_precision_is_part_of_the_digest():
    backbone = built("tests.networks:tiny")

    assert identify(backbone, "fp32").digest != identify(backbone, "bf16").digest


def test_a_changed_weight_changes_the_digest():
    module = built("tests.networks:tiny").module
    before = weights_digest(module)

    module.stem[0].bias[0] += 1e-6

    assert weights_digest(module) != before


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet_50", "resnet50"),
        ("efficientnet_lite00", "efficientnet_lite0"),
        ("resnet50.a1_in2k", "resnet50.a1_in1k"),
    ],
)
def test_a_wrong_name_is_answered_with_close_ones(tmp_path, name, near):
    path = tmp_path / "any.pth"
    path.write_bytes(b"never read")

    with pytest.raises(BackboneError) as caught:
        built(name, weights=path)

    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hopeless_name_is_still_one_line():
    with pytest.raises(BackboneError, match=r"backbone qqq: timm has no network of that name$"):
        built("qqq")


@pytest.mark.parametrize(
    ("into", "said"),
    [("test_resnet", "missing"), ("test_vit", "unknown")],
)
def test_another_networks_weights_are_refused(tmp_path, into, said):
    path = random_weights(tmp_path, "mobilenetv3_small_050")

    with pytest.raises(BackboneError, match="holds another network's weights") as caught:
        built(into, weights=path)

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused(tmp_path):
    path = random_weights(tmp_path, "mobilenetv3_small_050")

    with pytest.raises(BackboneError, match=r"193 of another shape \(blocks.0.0.conv_pw.weight is") as caught:
        built("mobilenetv3_small_100", weights=path)

    assert "\n" not in str(caught.value)


def test_one_missing_tensor_is_enough_to_refuse(tmp_path):
    """A partial load would leave random weights in place, and nobody would see it."""
    tensors = timm.create_model("test_resnet").state_dict()
    del tensors["layer1.0.bn1.running_mean"]
    save_file(tensors, tmp_path / "partial.safetensors")

    with pytest.raises(BackboneError, match=r"1 missing \(layer1.0.bn1.running_mean\)"):
        built("test_resnet", weights=tmp_path / "partial.safetensors")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "its weights can't be fetched from the hub, 127.0.0.1 can't be reached (Connection refused)"),
        ({"HF_HUB_OFFLINE": "1"}, "its weights can't be fetched from the hub (LocalEntryNotFoundError: "),
    ],
    ids=["closed-port", "offline"],
)
def test_an_unreachable_hub_is_one_line_that_says_what_to_do(settings, said, tmp_path):
    """In a process of its own, whose environment sends the hub's client to a closed port."""
    program = (
        "from models.backbone import build_backbone; from models.errors import BackboneError\n"
        "from models.identity import BackboneConfig\n"
        "try: build_backbone(BackboneConfig(name='test_resnet'))\n"
        "except BackboneError as error: print(error)\n"
    )
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), **settings}

    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith(f"backbone test_resnet: {said}")
    assert done.stdout.endswith("; give a local file\n")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_a_network_of_ones_own_is_described_by_its_factory():
    identity = identified("tests.networks:tiny")

    assert (identity.name, identity.licence, identity.features) == ("tiny", "Apache-2.0", "pooled")
    assert [(stage.name, stage.shape) for stage in identity.stages] == [
        ("stem", (8, 8, 8)),
        ("body", (16, 4, 4)),
        ("pooled", (16 + 4 * 8,)),
    ]
    assert identity.embedding_dim == 16


def test_a_grey_network_has_one_channel_and_its_dotted_name():
    identity = identified("tests.unit.networks:grey")

    assert identity.name == "tests.unit.networks:grey"
    assert identity.preprocessing.channels == 1
    assert identity.preprocessing.mean == (0.5,)


def test_a_network_of_ones_own_can_get_its_weights_from_a_file(tmp_path):
    changed = built("tests.networks:tiny").module.state_dict()
    changed["stem.0.bias"] += 1
    save_file(changed, tmp_path / "mine.safetensors")

    identity = identified("tests.networks:tiny", weights=tmp_path / "mine.safetensors")

    assert identity.weights_digest != identified("tests.networks:tiny").weights_digest


def test_a_frozen_network_is_in_eval_mode_and_answers_the_same_each_time():
    backbone = built("tests.unit.networks:dropping")
    pixels = reference_pixels(preprocessing_of(backbone))

    first, second = (embed(backbone, pixels) for _ in range(2))

    assert (first == second).all()
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("tests.nowhere:tiny", "tests.nowhere can't be imported: ModuleNotFoundError"),
        ("tests.networks:tinny", "has no function 'tinny'; did you mean tiny?"),
        ("tests.networks:", "has no function ''"),
        ("tests.unit.networks:not_a_function", "has no function 'not_a_function'"),
        ("tests.unit.networks:failing", "its factory failed: ValueError: no licence key"),
        ("tests.unit.networks:other_type", "returned a Linear, not a models.backbone.Backbone"),
        ("tests.unit.networks:five_channels", "channels must be 1"),
        ("tests.unit.networks:short_mean", "one number a channel"),
        ("tests.unit.networks:no_size", "input_size must be"),
        ("tests.unit.networks:area", "interpolation must be one of bicubic, bilinear, nearest, lanczos"),
        ("tests.unit.networks:unnamed_features", "features must name"),
        ("tests.unit.networks:unknown_stage", "no submodule boddy"),
        ("tests.unit.networks:twice_a_stage", "a submodule twice"),
        ("tests.unit.networks:unused_stage", "stage stem.0.spare takes no part in the embedding"),
        ("tests.unit.networks:stage_called_embedding", "can't be called pixels, embedding or pooled"),
        ("tests.unit.networks:grey_declared_on_colour", "can't be run on 16 px and 3 channels"),
        ("tests.unit.networks:unpooled", "of shape (images, size), not (2, 8, 8, 8)"),
        ("tests.unit.networks:one_row", "no tensor with a row for each image"),
        ("tests.unit.networks:infinite", "must be finite"),
    ],
)
def test_a_wrong_factory_is_one_clear_line(factory, said):
    with pytest.raises(BackboneError) as caught:
        identified(factory)

    assert said in str(caught.value)
    assert str(caught.value).startswith("backbone ")
    assert "\n" not in str(caught.value)
