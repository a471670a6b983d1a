"""What the gallery does with demos: it gives them options, and shows the pictures that they write."""

import math
import os
import shutil
from pathlib import Path

from sphinx_gallery.scrapers import figure_rst

import nnkernels.demo
from nnkernels.demo import name_of

nnkernels.demo.SILENT = math.inf  # progress is for terminals, and would be shown as output
RUNS = Path(__file__).parent / "_build" / "runs"
shown: dict[str, set[tuple[str, int]]] = {}  # per demo: the files that a page has, and when they were written


def full(gallery_conf: dict, script_vars: dict) -> list[str]:
    """Return the options of a demo that is about to run, and empty the directory that it writes into."""
    name = name_of(script_vars["src_file"])
    shown[name] = set()
    shutil.rmtree(RUNS / name, ignore_errors=True)
    return ["--out", str(RUNS / name)]


def quick(gallery_conf: dict, script_vars: dict) -> list[str]:
    """Return the options of the quick form."""
    return [*full(gallery_conf, script_vars), "--quick"]


def pictures(block: tuple, block_vars: dict, gallery_conf: dict) -> str:
    """Return reST that shows what a cell has written: PNGs and GIFs, in the order they were written."""
    name = name_of(block_vars["src_file"])
    files = [path for path in (RUNS / name).glob("*.*") if path.suffix in (".png", ".gif")]
    parts = []
    for file in sorted(files, key=os.path.getmtime):
        key = file.name, file.stat().st_mtime_ns
        if key not in shown[name]:
            shown[name].add(key)
            copy = Path(next(block_vars["image_path_iterator"])).with_suffix(file.suffix)
            shutil.copyfile(file, copy)
            words = file.stem.replace("_", " ")
            parts.append(figure_rst([str(copy)], gallery_conf["src_dir"], words))
    return "".join(parts)
