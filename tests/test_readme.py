"""The README's code is the code of the repository, and its commands are the ones that CI runs."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_is_the_demo():
    demo = (ROOT / "demos" / "first_steps.py").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", README, re.S)[0]
    assert demo.partition('"""\n\n')[2] == example


def test_the_convolution_shown_is_the_convolution_compiled():
    shown = re.findall(r"```python\n(.*?)```", README, re.S)[1]
    source = (ROOT / "nnkernels/ops/conv2d/loops.py").read_text(encoding="utf-8")
    lines = [line.strip() for line in shown.splitlines()]
    assert "\n".join(lines) in "\n".join(line.strip() for line in source.splitlines())


def test_the_derivatives_shown_are_those_that_come(capsys):
    code, shown = re.findall(r"```(?:python)?\n(.*?)```", README, re.S)[2:4]
    exec(compile(code, "README.md", "exec"), {})
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed[3:] == [line.rstrip() for line in shown.splitlines()]
    comments = re.findall(r"# (.*)", code)
    assert len(comments) == 3
    for line, comment in zip(printed, comments):
        wanted = [float(n) for n in re.findall(r"-?\d+\.\d+", comment)]
        assert [float(n) for n in re.findall(r"-?\d+\.\d+", line)] == pytest.approx(wanted, abs=1e-5)


def test_the_tour_of_a_kernel_prints_what_it_says(capsys):
    tour = (ROOT / "docs" / "read_a_kernel.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", tour, re.S)
    exec(compile(code, "read_a_kernel.md", "exec"), {})
    (comment,) = re.findall(r"print\(.*# (.*)", code)
    assert capsys.readouterr().out.split() == comment.split()


@pytest.mark.sim
def test_the_race_shown_is_found(capsys):
    code, shown = re.findall(r"```(?:python)?\n(.*?)```", README, re.S)[4:6]
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.split() == shown.split()


@pytest.mark.skipif(find_spec("sklearn") is None, reason="the demo reads scikit-learn's digits")
def test_the_demo_learns(capsys):
    code = (ROOT / "demos" / "first_steps.py").read_text(encoding="utf-8")
    space = {"__name__": "__main__"}
    exec(compile(code, "first_steps.py", "exec"), space)
    assert space["accuracy"] > 0.9
    assert capsys.readouterr().out.count("epoch") == 5


def test_two_set_up_commands_and_links_that_exist():
    assert len(re.findall(r"^    pip install -e", README, re.M)) == 2
    prose = re.sub(r"```.*?```", "", README, flags=re.S)
    links = re.findall(r"\]\(([^)#:]+)\)", prose)
    assert links
    assert all((ROOT / link).exists() for link in links), links
