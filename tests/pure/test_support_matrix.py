"""docs/support-matrix.md: its rows are the features that there are, its cells what runs say."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools" / "lib"))

import support_runs  # noqa: E402
from support_matrix import FEATURES, PAGE, render, shows  # noqa: E402
from support_runs import Run  # noqa: E402

ROWS = {(group, feature) for group, features in FEATURES.items() for feature in features}


def rows(page):
    """The cells of each feature, by group and feature."""
    found = {}
    for group in page.split("\n## ")[1:]:
        lines = [line for line in group.splitlines() if line.startswith("| ")][1:]
        for line in lines:
            feature, *cells = line.strip("| ").split(" | ")
            found[group.partition("\n")[0], feature] = cells
    return found


def test_the_page_has_every_feature_and_says_what_was_run():
    text = PAGE.read_text(encoding="utf-8")
    found = rows(text)
    assert set(found) == ROWS
    runs = re.findall(
        r"^\| [^|]+ \| \S+ \| \w+ \| [0-9a-f]{10} \| \d{4}-\d\d-\d\d \|", text, re.MULTILINE
    )
    assert len(runs) >= 5
    assert all(len(cells) == len(runs) for cells in found.values())
    assert sum(cell.startswith("✓") for cells in found.values() for cell in cells) > 50 * len(runs)


@pytest.fixture(scope="module")
def tests():
    return support_runs.tests()


def test_every_pattern_means_a_test(tests):
    for features in FEATURES.values():
        for feature, patterns in features.items():
            for pattern in patterns:
                whole = pattern.partition("[[]")[0]
                assert any(shows(test, whole) for test in tests), (feature, pattern)


def test_tests_of_what_a_kernel_lacks_show_nothing(tests):
    """They pass where the feature is missing, so they must not count for it."""
    absent = [each for each in tests if re.search(r"too_(old|young)|::test_(no|without)_", each)]
    absent = [each for each in absent if "TestDelegation" not in each]
    assert len(absent) > 5
    for features in FEATURES.values():
        for patterns in features.values():
            for pattern in patterns:
                assert not [each for each in absent if shows(each, pattern)], pattern


def run_of(kernel, **tests):
    named = {
        f"tests/kernel/test_tracing.py::TestLsm::test_{name}": outcome
        for name, outcome in tests.items()
    }
    release = {"sid": "7.2.0"}.get(kernel, f"{kernel}.0")
    return Run(kernel, release, "amd64", "0123456789", "2026-01-02", named)


@pytest.mark.parametrize(
    ("denies", "sleepable", "cell"),
    [
        (("passed", ""), ("passed", ""), "✓ 2"),
        (("passed", ""), ("skipped", "needs Linux 5.11; this is 5.10"), "✓ 1 of 2"),
        (("skipped", "needs Linux 5.11"), ("skipped", "needs Linux 5.9; this is 5.8"), "5.9"),
        (("skipped", "this kernel lacks LSM (Linux 5.7): EINVAL"), ("not run", ""), "5.7"),
        (("skipped", "needs Linux 5.11"), ("skipped", "no LSM"), "no"),
        (("passed", ""), ("failed", ""), "**✗ 1**"),
        (("died", ""), ("not run", ""), "**✗ 1**"),
        (("not run", ""), ("not run", ""), "–"),
    ],
)
def test_cells(denies, sleepable, cell):
    page = render([run_of("6.1", denies=denies, sleepable=sleepable), run_of("5.10")])
    found = rows(page)
    assert set(found) == ROWS
    assert found["Tracing", "lsm"] == ["–", cell]
    assert found["Tracing", "usdt"] == ["–", "–"]


def test_runs_and_reasons():
    lacking = {"denies": ("skipped", "no LSM; this is 6.1")}
    page = render([run_of("6.1", **lacking, other=("failed", "")), run_of("sid", **lacking)])
    assert "| 6.1 | 6.1.0 | amd64 | 0123456789 | 2026-01-02 | 0 | 1 | 1 |" in page
    assert "* 6.1, sid (7.2): no LSM: lsm" in page


def test_runs_are_kept(tmp_path):
    made = run_of("sid", denies=("passed", ""))
    support_runs.save(made, tmp_path)
    (kept,) = support_runs.load(tmp_path)
    assert render([kept]) == render([made])
