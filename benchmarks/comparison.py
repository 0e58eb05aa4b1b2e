"""What the comparisons with other libraries share. Needs none of them."""
import json
import os
import platform
import subprocess
import sys


def json_of(command, **environment):
    """What a program prints as JSON, with more variables in its environment; ends this one with the program's error."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          env={**os.environ, **environment})
    if done.returncode != 0 or not done.stdout:
        sys.exit(f"{command[0]} ended with status {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def processor():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()


def write_between(path, name, text):
    """Replaces what is between the markers NAME:begin and NAME:end of a file."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    with open(path) as file:
        page = file.read()
    head, rest = page.split(begin)
    tail = rest.split(end)[1]
    with open(path, "w") as file:
        file.write(head + begin + "\n" + text + "\n" + end + tail)
