#!/usr/bin/env python3
"""Prints the headers below a folder in chains, one a line, in which each header includes all that come before it.

In a file that includes a chain, a header comes after nothing but what it includes anyway, ahead of all that it
declares, so it compiles there only if it does so alone: one file checks a whole chain. There are as few chains as
possible, which is to match each header with at most one that includes it (Dilworth's theorem, Kuhn's matching).

    header_chains.py FOLDER [LEFT-OUT-PREFIX...]
"""
import re
import sys
from functools import cache
from pathlib import Path

folder, left_out = Path(sys.argv[1]), tuple(sys.argv[2:])
headers = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.hpp"))
headers = [header for header in headers if not header.startswith(left_out)]


@cache
def included(header):
    """All that a header includes, in itself and in others. Its condition may not hold: that is no inclusion."""
    text = re.sub(r"^ *#if.*?^ *#endif", "", (folder / header).read_text(), flags=re.MULTILINE | re.DOTALL)
    names = re.findall(r'^#include "(.*)"', text, re.MULTILINE)
    return frozenset(names).union(*(included(name) for name in names))


before = {}  # by header: the one before it in its chain


def place_after(header, tried):
    """Finds a header to come after this one, moving others where they can be moved."""
    for after in headers:
        if header in included(after) and after not in tried:
            tried.add(after)
            if after not in before or place_after(before[after], tried):
                before[after] = header
                return True
    return False


last = [header for header in headers if not place_after(header, set())]
for header in last:
    chain = [header]
    while chain[-1] in before:
        chain.append(before[chain[-1]])
    print(*reversed(chain))
