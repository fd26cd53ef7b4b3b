"""The pictures of a study: looks of arms, how arms share pictures, axes, numbers at the ends of curves."""

from __future__ import annotations

import copy
import itertools

import pytest

from jaxrl_llm.study import figures


def test_twelve_arms_beside_the_reference_are_told_apart_by_colour_and_dash():
    arms = [f"arm {number}" for number in range(13)]
    look = figures.looks(arms, "arm 4")
    assert len({(colour, str(dash)) for _, colour, dash in look.values()}) == 13
    assert look["arm 4"].colour == "#000000"
    assert [look[arm].number for arm in arms] == list(range(1, 14))
    neighbours = itertools.pairwise([arm for arm in arms if arm != "arm 4"])
    assert all(look[a].dash != look[b].dash for a, b in neighbours)  # in a grey print too


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9, 12])
def test_every_arm_is_in_one_picture_of_learning_curves_beside_the_reference(count):
    arms = [f"arm {number}" for number in range(count)]
    dealt = figures.groups(arms, "arm 0")
    assert all(group[0] == "arm 0" and len(group) <= 5 for group in dealt)
    assert [arm for group in dealt for arm in group[1:]] == arms[1:]


@pytest.mark.parametrize("values", [[0.5], [0.1, 0.1, 0.1], [0.0, 0.04, 0.5, 0.9, 0.98, 0.99], [0.2, 0.7]])
def test_numbers_at_the_ends_of_curves_are_apart_below_the_top_and_moved_no_more_than_that_takes(values):
    gap, top = 0.1, 1.0
    heights = figures.apart(values, gap, top)
    assert all(b - a >= gap - 1e-12 for a, b in itertools.pairwise(heights))
    assert heights[-1] <= top + 1e-12
    free = all(b - a >= gap for a, b in itertools.pairwise(values))
    assert (heights == pytest.approx(values)) == free
    if values == [0.1, 0.1, 0.1]:
        assert heights == pytest.approx([0.0, 0.1, 0.2])  # about where they were


def test_a_forest_plot_shows_zero_the_smallest_effect_and_every_interval():
    none = dict.fromkeys(("low", "high", "low_adjusted", "high_adjusted"))
    rows = [none | {"difference": -0.3}, none | {"difference": 0.0, "low": -0.01, "high": 0.013, "high_adjusted": 0.05}]
    low, high = figures.forest_limits(rows, 0.02)
    assert low < -30 and high > 5
    assert figures.forest_limits([], 0.02) == pytest.approx((-3.24, 3.24))


def test_a_moving_mean_is_drawn_of_curves_of_many_points_and_others_are_left_alone():
    few, many = ({name: [1.0, 3.0] * half for name in ("steps", "mean", "low", "high")} for half in (2, 20))
    assert figures._smoothed(few) == few
    assert set(figures._smoothed(many)["mean"][3:]) == {2.0}
    gap = copy.deepcopy(many)
    gap["mean"][5] = float("nan")
    assert str(figures._smoothed(gap)["mean"][5]) == "nan"


def test_an_interval_that_is_many_times_the_curves_does_not_flatten_them():
    wide = {"mean": [0.3, 0.5], "low": [-9.0, -9.0], "high": [9.0, 9.0]}
    low, high = figures._range([wide])
    assert 0.0 <= low < 0.3 and 0.5 < high < 0.8
