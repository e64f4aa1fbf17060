"""The sets of templates: how many, from where, and what goes into them."""

from __future__ import annotations

import pytest

from ldp_fast.clip import filled, template_set, template_sets
from ldp_fast.clip.templates import FOLDER, read_lines
from ldp_fast.errors import UsageError
from ldp_fast.metrics import object_centric_coco

COUNTS = {"imagenet": 79, "none": 1, "text2live": 14, "text2live_screen": 2}


def test_the_sets() -> None:
    assert template_sets() == sorted(COUNTS)
    for name, count in COUNTS.items():
        found = template_set(name)
        assert len(found) == len(set(found)) == count
        assert all(template.count("{}") == 1 for template in found)
        assert "# Source: " in (FOLDER / f"{name}.txt").read_text()
    assert template_set("none") == ("{}",)
    assert template_set("imagenet")[0] == "a bad photo of a {}."


def test_a_prompt_may_have_braces_of_its_own() -> None:
    assert filled("a {0} {} {x}", ["the {}.", "{}"]) == ["the a {0} {} {x}.", "a {0} {} {x}"]


def test_what_is_no_set_or_has_no_place_is_refused() -> None:
    with pytest.raises(UsageError, match=r"templates: expected one of imagenet, none, text2live, .*, got '\.\./x'"):
        template_set("../x")
    with pytest.raises(UsageError, match=r"expected \{\} in each of them, got 'a photo'"):
        filled("a cube", ["{}", "a photo"])
    with pytest.raises(UsageError, match="does not exist"):
        read_lines(FOLDER / "nothing.txt")


def test_dream_fields_captions() -> None:
    found = object_centric_coco()
    assert len(found) == len(set(found)) == 153
    assert all(caption == caption.lower().strip(" .,") + "." for caption in found)
    assert (
        found[0] == "a blue bicycle parked by a metal gate."
        and 'a blue motorbike has a "minnesota" license plate.' in found
    )
    assert "the back of a flat screened tv connected to a ipad." in found
    assert "a horned cow  standing in a green grass field." in found, "a doubled blank stays"
