"""Images as the checkpoint expects them, and the names of its classes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm.data
import torch
import transformers as hf
from families import small
from foreign import TWINS
from PIL import Image
from torchvision.models import ViT_B_16_Weights
from torchvision.transforms.v2.functional import pil_to_tensor

import vitzoo
from vitzoo.errors import ConfigError, InputError
from vitzoo.labels import imagenet_1k, labels_of
from vitzoo.preprocess import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocess


def photo(width: int = 300, height: int = 200) -> Image.Image:
    """Return a picture in colours, with fine and coarse structure."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
    return Image.fromarray(noise.numpy()).resize((width, height), Image.Resampling.BILINEAR)


@pytest.mark.parametrize(
    ("preprocess", "img_size"),
    [
        (Preprocess(), (224, 224)),
        (Preprocess(crop_pct=0.95), (384, 384)),
        (Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=0.875, interpolation="bilinear"), (224, 224)),
        (Preprocess(mean=CLIP_MEAN, std=CLIP_STD, crop_pct=1.0), (224, 224)),
        (Preprocess(crop_pct=0.9, crop_mode="squash", interpolation="nearest"), (224, 224)),
        (Preprocess(crop_pct=0.9), (192, 256)),
        (Preprocess(crop_pct=0.9), (256, 64)),
        (Preprocess(crop_pct=1.0, crop_mode="squash"), (96, 160)),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(300, 200), (150, 420)])
def test_images_are_timms_to_the_last_bit(preprocess: Preprocess, img_size: tuple, size: tuple) -> None:
    model = small("vit", img_size=img_size)
    model.preprocess = preprocess
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    image = photo(*size)
    torch.testing.assert_close(vitzoo.transforms(model)(image), theirs(image), rtol=0, atol=1e-6)


def test_images_are_torchvisions_to_the_last_bit() -> None:
    weights, image = ViT_B_16_Weights.IMAGENET1K_V1, photo()
    model = vitzoo.create("vit_b_16.imagenet1k_v1", depth=1)
    torch.testing.assert_close(vitzoo.transforms(model)(image), weights.transforms()(image), rtol=0, atol=1e-6)


def test_tensors_grey_images_and_one_channel_are_taken() -> None:
    model = small("vit")
    tensor = pil_to_tensor(photo())
    assert vitzoo.transforms(model)(tensor).shape == (3, 32, 32)
    torch.testing.assert_close(vitzoo.transforms(model)(tensor), vitzoo.transforms(model)(photo()), rtol=0, atol=0.05)
    grey = photo().convert("L")
    assert torch.equal(vitzoo.transforms(model)(grey), vitzoo.transforms(model)(grey.convert("RGB")))
    for mode in ("RGBA", "CMYK", "P", "1"):
        other = photo().convert(mode)
        assert torch.equal(vitzoo.transforms(model)(other), vitzoo.transforms(model)(other.convert("RGB")))
    assert vitzoo.transforms(small("vit", in_chans=1))(photo()).shape == (1, 32, 32)
    with pytest.raises(ConfigError, match="an image file has 1 or 3 channels; the model takes in_chans=5"):
        vitzoo.transforms(small("vit", in_chans=5))
    with pytest.raises(ConfigError, match="Linear does not say how its images are to be processed"):
        vitzoo.transforms(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((50, 60, 3), np.uint8), "a numpy.ndarray was given as an image (possible: a PIL image of 8 bits"),
        ("photo.jpg", "a builtins.str was given"),
        (Image.new("I;16", (60, 50)), "a PIL image of more than 8 bits a channel (mode 'I;16') was given"),
        (Image.new("F", (60, 50)), "(mode 'F')"),
        (torch.zeros(50, 60, 3, dtype=torch.uint8), "a uint8 tensor of shape (50, 60, 3) was given"),
        (torch.zeros(3, 50, 60, dtype=torch.int64), "a int64 tensor of shape (3, 50, 60) was given"),
        (torch.zeros(50, 60), "a float32 tensor of shape (50, 60) was given"),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_what_is_no_image_of_8_bits_is_refused(image: object, words: str, train: bool) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        vitzoo.transforms(small("vit"), train=train)(image)


def test_training_crops_and_flips_at_random_within_the_image() -> None:
    model = small("vit", img_size=(32, 48))
    train = vitzoo.transforms(model, train=True)
    torch.manual_seed(0)
    crops = [train(photo()) for _ in range(8)]
    assert {tuple(crop.shape) for crop in crops} == {(3, 32, 48)}
    assert len({crop.sum().item() for crop in crops}) == 8
    left_to_right = Image.linear_gradient("L").rotate(90)
    slopes = {bool((crop := train(left_to_right))[0, 0, 0] > crop[0, 0, -1]) for _ in range(20)}
    assert slopes == {True, False}


def test_the_names_of_imagenet_are_torchvisions() -> None:
    assert list(imagenet_1k()) == ViT_B_16_Weights.DEFAULT.meta["categories"]


def test_the_names_of_a_checkpoint_are_kept_and_placeholders_are_not(tmp_path: Path) -> None:
    config = hf.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=32, patch_size=8)
    config.id2label = {0: "ant", 1: "bee", 2: "cat"}
    hf.ViTForImageClassification(config).save_pretrained(tmp_path / "named")
    named = vitzoo.load(tmp_path / "named")
    assert named.labels == ("ant", "bee", "cat")
    vitzoo.save(named, tmp_path / "own")
    assert vitzoo.load(tmp_path / "own").labels == named.labels
    notes = vitzoo.save(named, tmp_path / "theirs", format="transformers")
    assert "dropped labels: vitzoo writes the names of classes in the format 'vitzoo' alone" in map(str, notes)
    assert vitzoo.load(tmp_path / "own", num_classes=2, reset="head").labels == ()
    assert vitzoo.load(tmp_path / "named", num_classes=2, reset="head").labels == ()
    named.reset_classifier(3)
    assert named.labels == ()

    (tmp_path / "timm").mkdir()
    theirs = TWINS["timm_vit"].save(TWINS["timm_vit"].model(), tmp_path / "timm")
    content = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps({**content, "label_names": ["a", "b", "c", "d", "e"]}))
    assert vitzoo.load(theirs).labels == ("a", "b", "c", "d", "e")

    (tmp_path / "plain").mkdir()
    plain = vitzoo.load(TWINS["vit_logits"].save(TWINS["vit_logits"].model(), tmp_path / "plain"))
    assert plain.labels == ()
    vitzoo.save(plain, tmp_path / "own")
    assert "labels" not in json.loads((tmp_path / "own/config.json").read_text())


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"0": "a", "1": "b"}, ("a", "b")),
        (["a", "b"], ("a", "b")),
        ({"0": "LABEL_0", "1": "LABEL_1"}, ()),
        ({"0": "a", "2": "b"}, ()),
        ("ab", ()),
        (None, ()),
    ],
)
def test_names_are_read_by_number(named: object, expected: tuple) -> None:
    assert labels_of(named) == expected
