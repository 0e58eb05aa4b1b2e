#!/usr/bin/env python3
"""Fills docs/experiments/index.md with what experiments measured: no number of it is written by hand.

    experiments_page.py [--check] [--from OUTPUT]

Between `<!-- result NAME -->` and `<!-- end -->` goes docs/experiments/NAME/table.md, and between `<!-- value KEY -->`
and `<!-- end -->` the KEY of docs/experiments/summary.json; both say "not run yet" where there is none. `--from` first
copies tables, figures and the summary from a folder that settle_experiment wrote; of another size than small, tables
and figures to folders NAME_SIZE, and the summary's keys as `SIZE.KEY`, an object in the summary. `--check` changes
nothing, and ends with status 1 where the page is not up to date.
"""
import argparse
import json
import re
import shutil
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "experiments"
NOT_RUN = "not run yet"


def value_text(value):
    """One value of the summary: a spread over seeds, counts, or a number."""
    if isinstance(value, dict) and "mean" in value:
        text = f"{value['mean']:.3f}"
        if value.get("seeds", 1) > 1:
            text += f" ± {value['deviation']:.3f} ({value['least']:.3f} to {value['most']:.3f}, {value['seeds']} seeds)"
        return text
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def filled(text, folder):
    summary_path = folder / "summary.json"
    summary = json.loads(summary_path.read_text()) if summary_path.exists() else {}

    def result(match):
        table = folder / match[1] / "table.md"
        body = re.sub(r"^## .*\n+", "", table.read_text()).strip() if table.exists() else NOT_RUN
        body = re.sub(r"^(!\[.*\]\()(?=[^)/]+\)$)", rf"\1{match[1]}/", body, flags=re.M)  # pictures beside the table
        return f"<!-- result {match[1]} -->\n{body}\n<!-- end -->"

    def value(match):
        found = summary
        for key in match[1].split("."):
            found = found.get(key) if isinstance(found, dict) else None
        body = NOT_RUN if found is None else value_text(found)
        return f"<!-- value {match[1]} -->{body}<!-- end -->"

    text = re.sub(r"<!-- result (\w+) -->.*?<!-- end -->", result, text, flags=re.S)
    return re.sub(r"<!-- value ([\w.]+) -->.*?<!-- end -->", value, text, flags=re.S)


def copy_results(source, folder):
    """All but the trainings themselves; those of another size than small to folders NAME_SIZE."""
    measured = json.loads((source / "summary.json").read_text())
    size = measured["size"]
    for table in source.glob("*/table.md"):
        target = folder / (table.parent.name + ("" if size == "small" else f"_{size}"))
        target.mkdir(parents=True, exist_ok=True)
        for file in table.parent.iterdir():
            if file.is_file():
                shutil.copy(file, target / file.name)
    summary_path = folder / "summary.json"
    summary = json.loads(summary_path.read_text()) if summary_path.exists() else {}
    if size == "small":
        others = {name: keys for name, keys in summary.items() if isinstance(keys, dict) and keys.get("size") == name}
        summary = {**measured, **others}
    else:
        summary[size] = {**summary.get(size, {}), **measured}
    summary_path.write_text(json.dumps(summary, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--folder", type=Path, default=PAGE, help="of the page")
    arguments = parser.parse_args()
    if arguments.source:
        copy_results(arguments.source, arguments.folder)
    index = arguments.folder / "index.md"
    before = index.read_text()
    after = filled(before, arguments.folder)
    if arguments.check:
        sys.exit(0 if before == after else f"{index} is not up to date: run {Path(__file__).name}")
    if before != after:
        index.write_text(after)


if __name__ == "__main__":
    main()
