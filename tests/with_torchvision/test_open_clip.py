"""What needs torchvision to be there at all."""

import open_clip


def test_open_clip_knows_architectures():
    assert "ViT-B-32" in open_clip.list_models()
