#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/libvirt-procedures.md is what `vireod --print-procedures` prints. usage: test_procedures.py VIREOD DOCUMENT"""

import difflib
import pathlib
import subprocess
import sys


def main():
    program, document = sys.argv[1:3]
    printed = subprocess.run([program, "--print-procedures"], stdout=subprocess.PIPE, text=True, check=True).stdout
    written = pathlib.Path(document).read_text(encoding="utf-8")
    if printed == written:
        return 0
    sys.stdout.writelines(difflib.unified_diff(written.splitlines(True), printed.splitlines(True), document, program))
    print(f"\nmake it new: {program} --print-procedures > {document}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
