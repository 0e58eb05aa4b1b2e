#!/usr/bin/env python3
"""Writes a header and all headers of the folder that it includes as one.

    amalgamate.py FOLDER HEADER OUTPUT
"""
import re
import sys
from pathlib import Path

folder, header, output = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
seen = set()


def expanded(name):
    """The lines of a header with its inclusions in place, each header once that says so."""
    lines = (folder / name).read_text().splitlines()
    if "#pragma once" in lines:
        seen.add(name)
    for line in lines:
        own = re.match(r'#include "(.*)"', line)
        if not own:
            if line != "#pragma once":
                yield line
        elif own[1] not in seen:
            yield from expanded(own[1])


lines = ["#pragma once", f"// {header} in one file, made by packaging/amalgamate.py: change the files it is made of."]
output.write_text("\n".join([*lines, *expanded(header)]) + "\n")
