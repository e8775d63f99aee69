"""Scales, ticks, looks and text: what every figure is made of."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from reports import STEPS

from coordexp.report.scales import (
    Scale,
    lead_scale,
    padded_limits,
    step_scale,
    step_ticks,
    ticks,
    y_scale,
)
from coordexp.report.style import glyph, looks
from coordexp.report.svg import fitted, px, rule, text

MARKUP = """<img src=x onerror=alert(1)>"'&amp;$y_1^2$\x07"""
finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6))


@given(finite, finite, st.integers(1, 8))
def test_ticks_are_round_inside_and_few(a: float, b: float, n_most: int) -> None:
    assume(abs(a - b) > 1e-4)
    scale = Scale(min(a, b), max(a, b), 0, 100)
    found = ticks(scale, n_most)
    assert len(found) <= n_most + 1
    room = 1e-6 * (scale.high - scale.low)
    assert all(scale.low - room <= tick <= scale.high + room for tick in found)
    gaps = {f"{later - earlier:.6g}" for earlier, later in itertools.pairwise(found)}
    assert len(gaps) <= 1
    assert all(re.fullmatch(r"[125]0*(\.0+)?|0?\.0*[125]|[125]e[+-]\d+", gap) for gap in gaps), gaps


@given(st.floats(1e-3, 1e3), st.floats(3.1, 1e4), st.integers(3, 7))
def test_logarithmic_ticks_are_round_inside_and_few(low: float, factor: float, n_most: int) -> None:
    scale = Scale(low, low * factor, 0, 100, log=True)
    found = ticks(scale, n_most)
    assert 1 <= len(found) <= n_most + 1
    assert all(scale.low <= tick <= scale.high for tick in found)
    assert all(float(f"{tick:.1e}") == pytest.approx(tick) for tick in found), (
        "more than two digits"
    )


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=9), st.booleans())
def test_every_value_lies_within_its_axis(values: list[float], from_zero: bool) -> None:
    scale = y_scale(values, 30, 200, from_zero)
    assert all(30 <= scale(value) <= 200 for value in values)
    assert scale.log == (not from_zero and max(values) / min(values) > 3)
    ordered = sorted(values)
    assert [scale(value) for value in ordered] == sorted(
        (scale(value) for value in values), reverse=True
    )
    middle = math.sqrt(scale.low * scale.high) if scale.log else (scale.low + scale.high) / 2
    assert scale(middle) == pytest.approx(115)


def test_axis_of_a_single_value_or_step_is_not_empty() -> None:
    assert padded_limits([0.0, 0.0]) == (-1.0, 1.0)
    assert y_scale([], 0, 1, from_zero=True).high == 1
    assert y_scale([0.0, 0.0], 0, 1, from_zero=True).high == 1
    assert step_ticks(step_scale([40], 0, 100)) == [40]
    assert step_ticks(step_scale(STEPS, 0, 100)) == [200, 400, 600]


def test_lead_axis_shows_zero_and_both_margins() -> None:
    scale = lead_scale([0.2, 0.4], 0.5, 0, 100)
    assert scale.low < -0.5 < 0 < 0.5 < scale.high
    far = lead_scale([0.2, 0.4], 50.0, 0, 100)
    assert far.high < 2, "a margin far beyond every lead does not set the axis"


def test_no_two_of_49_variants_look_alike() -> None:
    many = looks(f"v{i}" for i in range(49))
    assert len({(look.colour, look.marker) for look in many.values()}) == 49
    first_seven = list(many.values())[:7]
    without_colour = {
        glyph(look, (0, 0), edge="x").replace(look.colour, "") for look in first_seven
    }
    assert len(without_colour) == 7
    assert len({look.dashes for look in first_seven}) == 7


def test_looks_follow_the_order_of_the_study() -> None:
    first, second = looks(["v0", "v1"]).values()
    assert looks(["b", "a", "b"]) == {"b": first, "a": second}


def test_text_is_escaped_and_without_control_characters() -> None:
    node = ElementTree.fromstring(text(0, 0, MARKUP))
    assert node.text == MARKUP.replace("\x07", "�")


def test_long_text_is_cut_and_whole_in_its_tooltip() -> None:
    cut = ElementTree.fromstring(fitted(0, 0, "a" * 40 + "b" * 40, 100))
    assert re.fullmatch("a{6}…b{6}", cut.text or "")
    assert cut.findtext("title") == "a" * 40 + "b" * 40
    assert ElementTree.fromstring(fitted(0, 0, "short", 100)).findtext("title") is None


def test_pixels_have_two_decimals_and_no_trailing_zeros() -> None:
    assert [px(v) for v in (0, -0.001, 1, 1.005001, 2.5)] == ["0", "0", "1", "1.01", "2.5"]


def test_data_attributes_are_escaped_and_change_nothing_else() -> None:
    plain = ElementTree.fromstring(rule((0, 0), (1, 1)))
    marked = ElementTree.fromstring(rule((0, 0), (1, 1), data={"mark": MARKUP, "step": 40}))
    assert marked.attrib.pop("data-mark") == MARKUP.replace("\x07", "�")
    assert marked.attrib.pop("data-step") == "40"
    assert marked.attrib == plain.attrib
