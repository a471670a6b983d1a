"""``nnkernels demo``: run the demos, each of which shows a claim of the lecture and checks it."""

import argparse
import ast
import contextlib
import io
import json
import runpy
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nnkernels
from nnkernels.commands import CommandError
from nnkernels.commands.arguments import seed, writable_directory
from nnkernels.demo import METRICS, ClaimError, name_of


class Script(NamedTuple):
    """A demo's file and the sentence that it checks."""

    path: Path
    name: str
    claim: str


class Outcome(NamedTuple):
    """What came of a run: whether the claim holds, the figure that shows it, and the seconds it took."""

    holds: bool
    found: str
    seconds: float


def add_parser(commands: Any) -> None:
    """Declare the command."""
    text = "run a demo of one of the lecture's topics, or all of them"
    parser = commands.add_parser(
        "demo", help=text, description=f"{text}. Each writes pictures and metrics.json, and checks its claim."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="which one; see --list")
    parser.add_argument("--list", action="store_true", help="name all demos and what they claim")
    parser.add_argument("--all", action="store_true", help="run all, and print a table of what was measured")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where files go (default: runs/NAME, with --all runs/demos/NAME)",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of all that is random (default: 0)"
    )
    parser.add_argument("--quick", action="store_true", help="do less: trial runs of a few seconds each")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """List the demos, run one, or run all."""
    if sum([arguments.list, arguments.all, arguments.name is not None]) != 1:
        raise CommandError("demo wants one of NAME, --list and --all (see nnkernels demo --help)")
    scripts = {script.name: script for script in all_scripts()}
    if arguments.list:
        print_list(list(scripts.values()))
    elif arguments.all:
        run_all(list(scripts.values()), arguments)
    elif arguments.name not in scripts:
        raise CommandError(f"no demo {arguments.name!r}; there are {', '.join(scripts)}")
    else:
        out = writable_directory(arguments.out or Path("runs", arguments.name), "--out")
        outcome = run_script(scripts[arguments.name], out, arguments)
        if not outcome.holds:
            raise CommandError(f"demo {arguments.name}: {outcome.found}", status=1)
        files = sorted(path.name for path in out.iterdir() if path.suffix in (".png", ".gif", ".json"))
        print(f"wrote {', '.join(files)} into {out} ({outcome.seconds:.1f} s)")


def folder() -> Path:
    """Return where the demos lie: in the package where it was built, beside it in a checkout."""
    package = Path(nnkernels.__file__).parent
    for candidate in (package / "demos", package.parent / "demos"):
        if any(candidate.glob("plot_*.py")):
            return candidate
    raise CommandError(f"no demos are installed: looked beside and in {package}", status=1)


def all_scripts() -> list[Script]:
    """Return the demos in the lecture's order."""
    return [Script(path, name_of(str(path)), claim_of(path)) for path in sorted(folder().glob("plot_*.py"))]


def claim_of(path: Path) -> str:
    """Return the sentence that a script hands to ``Demo``, without running the script."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "Demo"
            and node.args
        ):
            return str(ast.literal_eval(node.args[0]))
    raise CommandError(f"{path} makes no Demo(claim)", status=1)


def print_list(scripts: list[Script]) -> None:
    """Print names and claims."""
    for number, script in enumerate(scripts, 1):
        indent = " " * 30
        claim = textwrap.fill(script.claim, 110, initial_indent=indent, subsequent_indent=indent).lstrip()
        print(f"{number:3d}  {script.name:<24} {claim}")


def run_all(scripts: list[Script], arguments: argparse.Namespace) -> None:
    """Run every demo; raise CommandError when a claim of any does not hold, once all have run."""
    top = writable_directory(arguments.out or Path("runs/demos"), "--out")
    print(f"{'demo, its claim':<24} {'seconds':>8}  measured", flush=True)
    start, failed = time.perf_counter(), []
    for script in scripts:
        out = writable_directory(top / script.name, "--out")
        with contextlib.redirect_stdout(io.StringIO()):
            outcome = run_script(script, out, arguments)
        if not outcome.holds:
            failed.append(script.name)
        found = outcome.found if outcome.holds else f"FAILS: {outcome.found}"
        print(f"{script.name:<24} {outcome.seconds:8.1f}  {found}")
        print(textwrap.indent(textwrap.fill(script.claim, 100), "    "), flush=True)
    held = len(scripts) - len(failed)
    print(f"{held} of {len(scripts)} claims hold; {time.perf_counter() - start:.0f} s")
    if failed:
        raise CommandError(f"these claims do not hold: {', '.join(failed)}", status=1)


def run_script(script: Script, out: Path, arguments: argparse.Namespace) -> Outcome:
    """Run a demo as its own command line would; a missing extra or a diverging loss fails it."""
    command = [str(script.path), "--out", str(out), "--seed", str(arguments.seed)]
    start = time.perf_counter()
    try:
        with command_line(command + ["--quick"] * arguments.quick):
            runpy.run_path(str(script.path), run_name="__main__")
    except ModuleNotFoundError as error:
        found = str(error)
        if "pip install" not in found:
            found += '; what demos need comes with: pip install "nnkernels[data]"'
        return Outcome(False, found, time.perf_counter() - start)
    except (ClaimError, FloatingPointError) as error:
        return Outcome(False, str(error), time.perf_counter() - start)
    seconds = time.perf_counter() - start
    path = out / METRICS
    checks = json.loads(path.read_text(encoding="utf-8"))["checks"] if path.exists() else []
    if not checks:
        return Outcome(False, "nothing was checked", seconds)
    return Outcome(True, f"{checks[-1]['what']}: {checks[-1]['found']}", seconds)


@contextlib.contextmanager
def command_line(command: list[str]) -> Iterator[None]:
    """Let ``sys.argv`` be ``command`` inside the ``with`` block."""
    before, sys.argv = sys.argv, command
    try:
        yield
    finally:
        sys.argv = before
