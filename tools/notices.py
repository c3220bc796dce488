#!/usr/bin/env python3
"""Prints the licences of the crates that are linked into the module and the command.

    tools/notices.py

Their authors require that their copyright and licence accompany the programs. Crates with the same
text are listed together. If a crate offers several licences, MIT applies if it is one of them. The
output is the same for all processors.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

PROGRAMS = ("gpulock", "gpulock-cli")
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
TOP = Path(__file__).resolve().parent.parent
RULE = "=" * 80


def metadata():
    """Returns what cargo knows about the packages and their dependencies."""
    command = [os.environ.get("CARGO", "cargo"), "metadata", "--locked", "--format-version", "1"]
    for platform in PLATFORMS:
        command += ["--filter-platform", platform]
    found = subprocess.run(command, cwd=TOP, stdout=subprocess.PIPE)
    if found.returncode:
        sys.exit("notices.py: cargo cannot list the dependencies")
    return json.loads(found.stdout)


def linked(found):
    """Returns the linked packages of others: no macros, nothing that only a build uses."""
    packages = {package["id"]: package for package in found["packages"]}
    edges = {node["id"]: node["deps"] for node in found["resolve"]["nodes"]}
    todo = [p["id"] for p in packages.values() if p["name"] in PROGRAMS and p["source"] is None]
    seen = set()
    while todo:
        name = todo.pop()
        macro = any("proc-macro" in target["kind"] for target in packages[name]["targets"])
        if name in seen or macro:
            continue
        seen.add(name)
        todo += [d["pkg"] for d in edges[name] if any(k["kind"] is None for k in d["dep_kinds"])]
    others = [packages[name] for name in seen if packages[name]["source"] is not None]
    return sorted(others, key=lambda package: (package["name"], package["version"]))


def texts(package):
    """Returns the texts of a package's licence, those of MIT if it offers a choice."""
    folder = Path(package["manifest_path"]).parent
    names = r"(licen[cs]e|copying|copyright|notice|unlicense)"
    files = sorted(file for file in folder.iterdir() if re.match(names, file.name, re.IGNORECASE))
    if "MIT" in re.split(r" OR |/", package["license"] or ""):
        mit = [
            file
            for file in files
            if re.search(r"mit|copyright|third-party", file.name, re.IGNORECASE)
        ]
        if any("mit" in file.name.lower() for file in mit):
            files = mit
    return [normal(file.read_text("utf-8")) for file in files]


def normal(text):
    """Returns a text without spaces and empty lines at its ends, for comparison."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def notices(packages):
    """Returns pairs of a text and the names of the packages that it applies to."""
    groups = {}
    found = {package["id"]: texts(package) for package in packages}
    for package in packages:
        name = f"{package['name']} {package['version']} ({package['license']})"
        # A crate may leave the licence to another one of the same repository.
        related = [
            other
            for other in packages
            if package["repository"]
            and all(other[key] == package[key] for key in ("repository", "license"))
        ]
        own = found[package["id"]] or next(
            filter(None, (found[other["id"]] for other in related)), []
        )
        if not own:
            sys.exit(f"notices.py: {name} contains no licence: expected a file such as LICENSE")
        for text in own:
            groups.setdefault(text, []).append(name)
    # MIT is the licence of this project as well.
    mit = (TOP / "LICENSE").read_text("utf-8").strip("\n")
    mit, replaced = re.subn(
        r"(?m)^Copyright .*$", "Copyright (c) The Rust Project Contributors", mit
    )
    if replaced != 1:
        sys.exit("notices.py: LICENSE has no line that begins with Copyright")
    groups.setdefault(mit, []).append("The Rust standard library (MIT OR Apache-2.0)")
    return sorted(groups.items(), key=lambda group: group[1])


def main():
    """Prints all notices."""
    print("The programs of GPULOCK contain the software below, under these licences. The Rust")
    print("standard library contains more crates; each Rust lists them in COPYRIGHT-library.html.")
    for text, names in notices(linked(metadata())):
        print(f"\n{RULE}\n" + "\n".join(names) + f"\n{RULE}\n\n{text}")


if __name__ == "__main__":
    main()
