#!/usr/bin/env python3
"""Writes docs/operations.md from the docstrings of include/settle/ops/: a line for each operation.

    operations_page.py [--check]

`--check` changes nothing, and ends with status 1 where the page is not up to date.
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPS, PAGE = ROOT / "include" / "settle" / "ops", ROOT / "docs" / "operations.md"
GROUPS = [
    ("Element by element", ["map"]),
    ("Sums, means and extrema", ["reduce", "scan", "order"]),
    ("Convolutions and products", ["convolution", "conv_transpose", "matmul", "linear_map", "attention"]),
    ("Images", ["pool", "resize", "pad", "roi_align"]),
    ("Shapes", ["reshape", "transpose", "slice", "concat", "stack"]),
    ("Elements by their places", ["gather", "elements"]),
]
HEAD = """# All operations

Written by `scripts/operations_page.py` from the headers: the first sentence of each. Each is differentiable to any order where it says nothing else. x, y are Vars (a Tensor is a constant one); the reference has arguments, shapes and errors. PyTorch's names are in [from_pytorch.md](from_pytorch.md).
"""


def without_detail(text):
    """The text less its namespaces detail."""
    while (at := text.find("\nnamespace detail {")) >= 0:
        end = text.index("\n}  // namespace detail", at)
        text = text[:at] + text[end + len("\n}  // namespace detail"):]
    return text


def first_sentence(comment):
    text = re.sub(r"\s+", " ", " ".join(line.strip()[3:].strip() for line in comment.strip().split("\n")))
    return re.split(r"(?<=[.:])\s+(?=[A-Z`])", text)[0].rstrip(":.;") + "."


def parameters(text):
    """The names of a list of parameters."""
    names, depth, one = [], 0, ""
    for letter in text + ",":
        depth += letter in "<({[" or -(letter in ">)}]")
        if letter == "," and depth == 0:
            before = one.split("=")[0].strip()
            name = re.search(r"(\w+)$", before)
            if name and " " in before:
                names.append(name[1] + ("..." if "..." in before else ""))
            elif before:
                names.append("f")  # a function that is given as a type alone
            one = ""
        else:
            one += letter
    return ", ".join(names)


def operations(header):
    """(name, arguments, sentence) of each documented function; of overloads all that have a docstring."""
    text = without_detail(header.read_text())
    found = re.finditer(
        r"((?:^///[^\n]*\n)+)^template <[^\n]*>\n(?:^ +requires[^\n]*\n)?"  # docstring, template
        r"^(?:std::\w+<.*?> |[\w:]+(?:<[^\n(]*>)? )(\w+)"  # result, name
        r"\(((?:[^(){}]|\{[^{}]*\}|\([^()]*\))*)\)(?: \{|;)",  # parameters
        text, flags=re.M)
    for match in found:
        if not match[1].startswith("/// Of Tensors"):
            yield match[2], parameters(re.sub(r"\s+", " ", match[3])), first_sentence(match[1])


def page():
    grouped = {name for _, names in GROUPS for name in names}
    other = sorted(h.stem for h in OPS.glob("*.hpp") if h.stem not in grouped | {"all", "constants", "samples"})
    out = HEAD
    for title, names in GROUPS + ([("Others", other)] if other else []):
        lines = []
        for name in names:
            for function, arguments, sentence in operations(OPS / f"{name}.hpp"):
                sentence = sentence.replace("|", r"\|")
                lines.append(f"| `{function}({arguments})` | {sentence} |\n")
        if title == GROUPS[0][0]:
            lines.append("| `x + y`, `x - y`, `x * y`, `x / y`, `-x` | The operators; they broadcast. |\n")
            of_vars, in_maps = pointwise()
            lines.append(f"| {of_vars} | Of a Var, a pass over memory for each; in a `map` one pass for many. |\n")
            lines.append(f"| {in_maps} | In a `map` alone. |\n")
        headers = ", ".join(f"`settle/ops/{name}.hpp`" for name in names)
        out += f"\n## {title}\n\n{headers}\n\n| | |\n|---|---|\n" + "".join(lines)
    return out


def pointwise():
    """The functions of Vars, and those of a map's numbers alone."""
    of_vars = re.findall(r"^SETTLE_FUNCTION\((\w+)\)", (OPS / "map.hpp").read_text(), flags=re.M)
    text = (ROOT / "include" / "settle" / "expr" / "program.hpp").read_text()
    all_names = re.findall(r"^(?:  friend )?constexpr Expression (\w+)\(", text, flags=re.M)
    in_maps = [name for name in dict.fromkeys(all_names) if name not in of_vars + ["apply", "operator"]]
    return [", ".join(f"`{name}`" for name in names) for names in (of_vars, in_maps)]


def main():
    text = page()
    if sys.argv[1:] == ["--check"]:
        current = PAGE.exists() and PAGE.read_text() == text
        sys.exit(0 if current else f"{PAGE} is not up to date: run {Path(__file__).name}")
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
