"""The page of a study: everything in the summary is on it, as it is, in one file that a browser lays out well."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from jaxrl_llm.study import page, plan, words
from jaxrl_llm.study.records import RunRecord
from jaxrl_llm.study.summary import summarize
from tests.pages import Page
from tests.study.summaries import VERDICTS, summary

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'too' $x$ ≥"
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    made = summary(cells=("easy", "hard"), arms=4, points=8, mark=HOSTILE)
    return page.write(made, tmp_path_factory.mktemp("study") / "new folder" / "report.html")


@pytest.fixture(scope="module")
def read(written) -> Page:
    return Page(written.read_text())


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A page of one cell with twelve arms, and as many points to a curve as a summary has."""
    made = summary(cells=("easy",), arms=12, points=40, seeds=16, mark=HOSTILE)
    return page.write(made, tmp_path_factory.mktemp("study") / "report.html")


def small(**changes) -> dict:
    """A summary without pictures of curves, which take the time."""
    made = summary(cells=("easy",), arms=2, seeds=3, points=2, **changes)
    for arm in made["cells"]["easy"]["arms"].values():
        arm["curves"] = {}
    return made


def shown(made: dict, folder: Path) -> str:
    return Page(page.write(made, folder / "report.html").read_text()).shown


def marked(value: object) -> set[str]:
    """All texts in a summary that people, models or machines wrote."""
    if isinstance(value, dict):
        return set().union(*(marked(part) for pair in value.items() for part in pair)) if value else set()
    if isinstance(value, list):
        return set().union(*map(marked, value)) if value else set()
    return {value} if isinstance(value, str) and HOSTILE in value else set()


def test_the_page_is_one_well_formed_file_that_fetches_nothing(read):
    assert read.fetches_nothing()
    assert len(set(read.ids)) == len(read.ids)
    assert {link.removeprefix("#") for link in read.links} <= set(read.ids)


def test_every_text_of_the_summary_is_shown_as_it_is(read):
    texts = marked(summary(cells=("easy", "hard"), arms=4, points=8, mark=HOSTILE))
    assert len(texts) > 30
    seen = read.shown.replace("␣", " ").replace("↵", "\n")
    assert [text for text in texts if text not in seen] == []


def test_each_comparison_has_its_verdict_in_words_and_symbol_its_interval_and_its_corrected_p(read):
    assert all(
        f"{words.VERDICTS[verdict].symbol} {words.VERDICTS[verdict].words}" in read.shown for verdict in VERDICTS
    )
    for expected in ("+5.0 [+3.0, +7.0]", "−4.0 [−6.5, −1.5]", "[+2.4, +7.6]", "< 0.001", "0.300"):
        assert expected in read.shown
    assert len({verdict.symbol for verdict in words.VERDICTS.values()}) == len(words.VERDICTS)


def test_every_section_of_a_full_summary_is_on_the_page_and_can_be_reached(read):
    for heading in (
        "Verdicts",
        "Effects",
        "What is claimed, and what was found",
        "Setting",
        "Learning curves",
        "What changed beside accuracy",
        "Probability of the sampled tokens",
        "Tokens at which the clip bound",
        "Endless completions",
        "Texts before and after",
        "Accuracy of each arm",
        "Provenance",
    ):
        assert read.shown.count(heading) == 2  # in the list of links, and over the section
    assert read.shown.count("Gradient norm, before clipping") == 2  # one a cell


def test_runs_that_failed_or_collapsed_and_knobs_that_did_nothing_stand_before_the_verdicts(read):
    before, _, _ = read.shown.partition("all cells")
    assert f"trick 3{HOSTILE}: seed 3 failed: killed by signal 9" in before
    assert f"trick 3{HOSTILE}: no record of seeds 4, 6–7 yet" in before
    assert f"trick 1{HOSTILE}: 1 of 8 runs lost their entropy" in before
    assert f"trick 2{HOSTILE}: 1 of 8 runs collapsed (in easy{HOSTILE}, hard{HOSTILE})" in before
    assert "effect/clip_high was 0 in every run" in before


def test_a_section_without_data_is_left_out(tmp_path):
    made = small()
    made |= {"claim": "", "source": ""}
    cell = made["cells"]["easy"]
    cell["comparisons"] = []
    for arm in cell["arms"].values():
        arm |= {"tricks": [], "counts": {}, "samples": [], "repeat_ratio": {"value": None}, "evaluations": {}}
        arm["per_seed"] = {name: [] for name in arm["per_seed"]}
    text = shown(made, tmp_path)
    assert [
        heading for heading in re.findall(r"[A-Z][a-z]+", text.partition("Setting")[0]) if heading == "Verdicts"
    ] == []
    parsed = Page((tmp_path / "report.html").read_text())
    assert [link for link in parsed.links if link.startswith("#")] == ["#setting", "#provenance"]
    assert "svg" not in parsed.tags


def test_a_study_that_compares_nothing_says_what_its_arms_reached(tmp_path):
    made = small()
    made["cells"]["easy"]["comparisons"] = []
    text = shown(made, tmp_path)
    assert re.search(r"easy, trick 1: 30\.0 % before training, \d\d\.\d % \[[\d., ]+\] at the end", text)
    assert "smallest effect" not in text


def test_numbers_that_a_study_could_not_give_are_dashes_and_gaps(tmp_path):
    made = small()
    arm = made["cells"]["easy"]["arms"]["trick 1"]
    arm["evaluations"] |= {"low": [None, None], "mean": [0.3, None]}
    arm["per_seed"] |= {"start": [None] * 3, "time_to_target": [None] * 3}
    row = made["cells"]["easy"]["comparisons"][0]
    nothing = {"difference": None, "low": None, "high": None}
    row |= (
        nothing
        | dict.fromkeys(("low_adjusted", "high_adjusted"))
        | {
            "p": None,
            "p_adjusted": None,
            "minimum_detectable": None,
            "verdict": "undecided",
            "area": nothing,
        }
    )
    text = shown(made, tmp_path)
    assert "not compared" in text
    assert not re.search(r"\b(nan|None)\b", text)
    row |= {"difference": 0.01, "minimum_detectable": 1.3}  # more than accuracies can differ
    text = shown(made, tmp_path)
    assert "+1.0" in text and "130.0" not in text


def test_where_comparisons_are_many_the_claim_stands_beside_the_arms_of_each_verdict(tmp_path):
    made = small()
    cell = made["cells"]["easy"]
    rows = [cell["comparisons"][0] | {"verdict": verdict, "text": "long"} for verdict in VERDICTS for _ in range(4)]
    cell["comparisons"] = rows
    assert "easy. helps: trick 1, trick 1, trick 1, trick 1; hurts: trick 1" in shown(made, tmp_path)


def test_where_references_differ_a_row_says_what_it_is_compared_with(tmp_path):
    made = small()
    cell = made["cells"]["easy"]
    cell["comparisons"] = [cell["comparisons"][0] | pair for pair in ({}, {"arm": "base", "reference": "trick 1"})]
    text = shown(made, tmp_path)
    assert "2 · trick 1 against base" in text and "1 · base against trick 1" in text
    assert "2 · trick 1 against 1" in text and "1 · base against 2" in text  # in the forest plot


def test_the_same_summary_gives_the_same_bytes_read_back_from_json_too(tmp_path):
    made = small()
    first = page.write(made, tmp_path / "first.html").read_bytes()
    assert page.write(json.loads(json.dumps(made)), tmp_path / "second.html").read_bytes() == first


def test_these_summaries_have_the_keys_of_a_summary_of_a_study(tmp_path):
    study = plan.load(str(CONFIGS / "paper" / "e05_clip_higher.py"), ("seeds=3", f"run_dir={tmp_path}"))
    rising = np.linspace(0.2, 0.7, 4, dtype=np.float32)[:, None] * np.ones(5, np.float32)
    counts = {"probability": np.ones(6, int), "clipped": np.ones(2, int), "tokens": np.ones(2, int)}
    rest = {"curves": {"reward": rising[:, 0]}, "counts": counts, "vocabulary": ("a", "b"), "seconds": 1.0}
    ended = [RunRecord(*job, eval_steps=np.arange(4), accuracy=rising, **rest) for job in study.jobs()]
    real = summarize(study, ended, command="study", seconds=1.0, devices="one")

    def keys(values: dict) -> dict[str, set[str]]:
        cell = next(iter(values["cells"].values()))
        arm, row = list(cell["arms"].values())[1], cell["comparisons"][0]
        parts = {"top": values, "cell": cell, "arm": arm, "trick": arm["tricks"][0], "comparison": row}
        parts |= {name: arm[name] for name in ("per_seed", "mean", "evaluations", "counts", "reached", "repeat_ratio")}
        return {name: set(part) for name, part in parts.items()}

    made, expected = keys(small()), keys(real)
    assert {name: made[name] - expected[name] for name in made} == {name: set() for name in made}
    assert "identical" in shown(real, tmp_path)


def test_a_summary_of_another_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="schema = 7, expected 1"):
        page.write(small() | {"schema": 7}, tmp_path / "report.html")


def test_long_texts_of_models_are_cut_with_the_number_of_characters_left_out(tmp_path):
    made = small()
    made["cells"]["easy"]["arms"]["base"]["samples"][0]["completion"] = "x" * 10_000
    assert f"{'x' * 1500}… (8,500 more characters)" in shown(made, tmp_path)


def test_six_cells_of_twelve_arms_stay_under_three_megabytes(large):
    assert 6 * large.stat().st_size < 3e6  # no more than six pages of one cell


PROBE = """<script>
addEventListener("load", () => {
  const texts = [...document.querySelectorAll("figure svg text")], found = {outside: [], overlapping: [], small: 99};
  const boxes = texts.map(text => [text, text.ownerSVGElement, text.getBoundingClientRect()]);
  for (const [text, svg, box] of boxes) {
    const frame = svg.getBoundingClientRect();
    if (box.left < frame.left - 1 || box.right > frame.right + 1) found.outside.push(text.textContent);
    const size = parseFloat(getComputedStyle(text).fontSize) * frame.width / svg.viewBox.baseVal.width;
    found.small = Math.min(found.small, size);
    for (const [other, owner, its] of boxes)
      if (other !== text && owner === svg && box.left + 1 < its.right && its.left + 1 < box.right
          && box.top + 3 < its.bottom && its.top + 3 < box.bottom)
        found.overlapping.push(`${text.textContent} / ${other.textContent}`);
  }
  found.width = document.documentElement.clientWidth;
  found.scroll = document.documentElement.scrollWidth;
  found.figures = document.querySelectorAll("figure svg[role=img]").length;
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""

# A window of a browser has a least width, a frame in it has not
FRAME = """<!DOCTYPE html><script>
addEventListener("message", event => document.querySelector("output").textContent = event.data);
</script><iframe src="probed.html" width="390" height="844" style="border: 0"></iframe><output></output>"""


@pytest.mark.skipif(BROWSER is None, reason=f"no browser on this machine: looked for {', '.join(BROWSERS)}")
def test_a_browser_lays_the_page_out_on_a_phone_without_scrolling_sideways_or_labels_over_each_other(large, tmp_path):
    probed = tmp_path / "probed.html"
    probed.write_text(large.read_text().replace("</body>", f"{PROBE}</body>"))
    (tmp_path / "frame.html").write_text(FRAME)
    flags = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/user",
    )
    command = (str(BROWSER), *flags, "--dump-dom", (tmp_path / "frame.html").as_uri())
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    result = re.search(r"<output>(.+)</output>", done.stdout)
    assert result, done.stderr
    found = json.loads(html.unescape(result[1]))
    assert "CONSOLE" not in done.stderr
    assert found["scroll"] <= found["width"] <= 390
    assert found["figures"] == large.read_text().count("<figure>")
    assert found["outside"] == [] and found["overlapping"] == []
    assert found["small"] >= 9  # pixels
