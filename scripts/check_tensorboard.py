#!/usr/bin/env python3
"""Reads a run's events with TensorBoard's own reader and compares them with its metrics.jsonl.

    pip install tensorboard
    scripts/check_tensorboard.py RUN

Needs nothing of settle; not part of the tests, which compare bytes with those of TensorBoard's writer.
"""
import json
import pathlib
import sys

import numpy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run = pathlib.Path(sys.argv[1])
events = EventAccumulator(str(run), size_guidance={"scalars": 0})
events.Reload()
expected = {}
for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
    scores = line.get("validation")
    for name, value in (scores or line).items():
        if isinstance(value, (int, float)) and name not in ("step", "seconds"):
            expected.setdefault(("validation/" if scores else "training/") + name, []).append((line["step"], value))
assert set(events.Tags()["scalars"]) == set(expected), (events.Tags()["scalars"], sorted(expected))
for tag, points in expected.items():
    found = [(event.step, event.value) for event in events.Scalars(tag)]
    assert found == [(step, float(numpy.float32(value))) for step, value in points], tag
print(f"{len(expected)} tags, {sum(map(len, expected.values()))} scalars: as in {run / 'metrics.jsonl'}")
