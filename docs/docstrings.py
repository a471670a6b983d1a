"""Docstrings as reStructuredText: written to be read as they stand, they get a few marks here."""

import re

CODE = re.compile(r"(`+[^`]+`+)")
MARKS = re.compile(r"([*|]|(?<=\w)_(?!\w))")


def as_rest(app, what, name, obj, options, lines: list[str]) -> None:
    """Make indented blocks literal; let stars, bars and underscores in prose mean themselves."""
    done: list[str] = []
    prose = ""  # the paragraph or list item that the last line belongs to
    literal = False
    for line in lines:
        indented = line.startswith("    ")
        if not line.strip():
            prose = ""
        elif indented and (literal or not prose):
            if not literal:
                done += ["::", ""]
            literal = True
        elif indented and not prose.startswith(("- ", ">>>")):
            done += ["", "::", ""]
            literal = True
        else:
            literal = False
            prose = prose or line.lstrip()
        if not literal and not prose.startswith(">>>"):
            parts = CODE.split(line)
            line = "".join(p if p.startswith("`") else MARKS.sub(r"\\\1", p) for p in parts)
        done.append(line)
    lines[:] = done
