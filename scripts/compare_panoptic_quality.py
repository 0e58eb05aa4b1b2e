#!/usr/bin/env python3
"""Compares panoptic_eval with the evaluators that others trust, on predictions made from a data set's truth.

    compare_panoptic_quality.py PANOPTIC_EVAL FOLDER...

A FOLDER has NAME.json and NAME/ for each NAME = panoptic_*. The predictions are the truth itself, and the truth shifted
to the right, with segments merged, split, relabelled, dropped, and all of these at once. The evaluators are panopticapi
(pip install panopticapi-lite) and hotcoco, whichever are there. All numbers must be equal to 1e-12. Says SKIP, and ends
with status 77, where none is there or no data.
"""
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    from PIL import Image
except ImportError as error:
    print("SKIP:", error)
    sys.exit(77)

evaluators = {}
with contextlib.suppress(ImportError):
    from panopticapi.evaluation import pq_compute as of_panopticapi

    evaluators["panopticapi"] = of_panopticapi
with contextlib.suppress(ImportError):
    from hotcoco.panoptic import pq_compute as of_hotcoco

    evaluators["hotcoco"] = of_hotcoco


def read(path):
    colours = np.array(Image.open(path)).astype(np.int64)
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


def write(path, ids):
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(path)


def shifted(by):
    def change(ids, segments, random, categories):
        out = np.zeros_like(ids)
        out[:, by:] = ids[:, :-by]
        return out, segments

    return change


def merged(ids, segments, random, categories):
    """Every other segment becomes part of the one before it."""
    for one, other in zip(segments[::2], segments[1::2]):
        ids[ids == other["id"]] = one["id"]
    return ids, segments[::2]


def split(ids, segments, random, categories):
    """A part of each segment, between a tenth and nine tenths of it from the top, becomes a new one."""
    new = []
    for number, segment in enumerate(segments):
        rows, columns = np.nonzero(ids == segment["id"])
        count = int(len(rows) * random.uniform(0.1, 0.9))
        if count > 0:
            ids[rows[:count], columns[:count]] = 16777215 - number
            new.append({"id": 16777215 - number, "category_id": segment["category_id"]})
    return ids, segments + new


def relabelled(ids, segments, random, categories):
    """A third of the segments get any category."""
    return ids, [
        {"id": s["id"], "category_id": int(random.choice(categories)) if random.uniform() < 1 / 3 else s["category_id"]}
        for s in segments
    ]


def dropped(ids, segments, random, categories):
    """A third of the segments become void."""
    for segment in segments:
        if random.uniform() < 1 / 3:
            ids[ids == segment["id"]] = 0
    return ids, segments


def all_at_once(ids, segments, random, categories):
    for change in (dropped, shifted(5), split, relabelled):
        ids, segments = change(ids, segments, random, categories)
    return ids, segments


def unchanged(ids, segments, random, categories):
    return ids, segments


changes = {
    "itself": unchanged,
    "shifted by 4": shifted(4),
    "shifted by 8": shifted(8),
    "shifted by 16": shifted(16),
    "merged": merged,
    "split": split,
    "relabelled": relabelled,
    "dropped": dropped,
    "all at once": all_at_once,
}


def predict(truth, truth_folder, change, json_path, folder):
    folder.mkdir()
    random = np.random.default_rng(1)
    categories = [c["id"] for c in truth["categories"]]
    annotations = []
    for annotation in truth["annotations"]:
        segments = [{"id": s["id"], "category_id": s["category_id"]} for s in annotation["segments_info"]]
        ids, segments = change(read(truth_folder / annotation["file_name"]), segments, random, categories)
        there = set(np.unique(ids).tolist())
        write(folder / annotation["file_name"], ids)
        annotations.append({**annotation, "segments_info": [s for s in segments if s["id"] in there]})
    json_path.write_text(json.dumps({"annotations": annotations}))


def largest_difference(ours, theirs):
    pairs = [
        (ours if group == "All" else ours[group.lower()], theirs[group]) for group in ("All", "Things", "Stuff")
    ] + [({**of_it, "iou": of_it["iou_sum"]}, theirs["per_class"][int(id)]) for id, of_it in ours["per_category"].items()]
    keys = ("pq", "sq", "rq", "n", "tp", "fp", "fn", "iou")  # hotcoco has -1 for categories that are not there
    return max(abs(a[key] - max(b[key], 0)) for a, b in pairs for key in keys if key in a and key in b)


def compare(program, name, truth_path, truth_folder, truth, change):
    with tempfile.TemporaryDirectory() as there:
        json_path, folder = Path(there) / "predictions.json", Path(there) / "predictions"
        predict(truth, truth_folder, change, json_path, folder)
        paths = [str(path) for path in (truth_path, truth_folder, json_path, folder)]
        ours = json.loads(subprocess.run([program, *paths, "--json"], check=True, capture_output=True).stdout)
        good = True
        for evaluator, evaluate in evaluators.items():
            with contextlib.redirect_stdout(io.StringIO()):
                theirs = evaluate(paths[0], paths[2], paths[1], paths[3])
            difference = largest_difference(ours, theirs)
            good = good and difference <= 1e-12
            print(
                f"{truth_path.stem} {name:13} PQ {ours['pq']:.12f}  {evaluator:11} {theirs['All']['pq']:.12f}"
                f"  largest difference {difference:.1e}{'' if difference <= 1e-12 else '  DIFFERENT'}",
                flush=True,
            )
        return good


def main():
    program, folders = sys.argv[1], [Path(folder) for folder in sys.argv[2:]]
    truths = sorted(path for folder in folders for path in folder.glob("panoptic_*.json"))
    if not evaluators or not truths:
        print("SKIP: needs panopticapi or hotcoco" if not evaluators else "SKIP: no data found")
        return 77
    good = True
    for truth_path in truths:
        truth = json.loads(truth_path.read_text())
        for name, change in changes.items():
            good = compare(program, name, truth_path, truth_path.with_suffix(""), truth, change) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
