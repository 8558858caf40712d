#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Help, manual pages and completion say the same as the option table.

usage: test_docs.py SPEC-DOC VIREO [--page PAGE...] [--completion FILE...]
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

ARGS = None


def output(*command, **kwargs):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True, **kwargs).stdout


def listed():
    """(option, key or None) of the whole table."""
    for line in output(ARGS.spec_doc, "list", input="@OPTIONS@\n").splitlines():
        option, _, key = line.partition(".")
        yield option, key or None


def rendered(page):
    """The page as a terminal shows it, on lines long enough not to be broken."""
    return output("groff", "-man", "-Tascii", "-P-cbou", "-rLL=400n", page)


class Docs(unittest.TestCase):
    def check_text(self, where, text):
        """Each option on a line of its own, and below it its keys until the next option."""
        sections = dict(re.findall(r"^ +--([a-z-]+)(.*?)(?=^ +--|\Z)", text, re.M | re.S))
        for option, key in listed():
            self.assertIn(option, sections, f"{where} has no --{option}")
            if key:
                self.assertRegex(sections[option], rf"(?m)^ +{key}=", f"{where} has no {key}= of --{option}")
        self.assertEqual(sorted(sections), sorted({option for option, _ in listed()}), where)

    def test_help(self):
        text = output(ARGS.vireo, "run", "--help")
        self.check_text("vireo run --help", text)
        self.assertTrue(all(len(line) <= 100 for line in text.splitlines()))

    @unittest.skipUnless(shutil.which("groff"), "groff is missing")
    def test_manual_pages(self):
        for page in ARGS.page:
            if page.endswith("vireo-image.1"):
                continue
            text = rendered(page)
            part = re.search(r"^OPTIONS.*?(?=^[A-Z])", text, re.M | re.S)
            self.assertTrue(part, f"{page} has no OPTIONS")
            self.check_text(page, part[0])
            self.assertNotIn("@", text)

    @unittest.skipUnless(shutil.which("groff"), "groff is missing")
    def test_manual_pages_are_good_troff(self):
        for page in ARGS.page:
            done = subprocess.run(["groff", "-man", "-ww", "-z", "-Tascii", page], stderr=subprocess.PIPE, text=True,
                                  check=True)
            self.assertEqual(done.stderr, "")

    def test_verbs_are_in_the_manual(self):
        page = next(page for page in ARGS.page if page.endswith("vireo.1"))
        text = pathlib.Path(page).read_text().replace("\\-", "-")
        verbs = re.findall(r"^  vireo ([a-z-]+)", output(ARGS.vireo, "help"), re.M)
        self.assertGreater(len(verbs), 2)
        for verb in verbs:
            self.assertRegex(text, rf"(?m)^\.B\S*\s+\"?{verb}\b")

    def test_image_verbs_are_in_the_manual_and_completed(self):
        page = next(page for page in ARGS.page if page.endswith("vireo-image.1"))
        text = pathlib.Path(page).read_text().replace("\\-", "-")
        verbs = re.findall(r"^  ([a-z]+) ", output(ARGS.vireo, "image", "--help"), re.M)
        self.assertGreater(len(verbs), 8)
        for verb in verbs:
            self.assertRegex(text, rf"(?m)^\.BR {verb}\b")
        for file in ARGS.completion:
            self.assertIn(" ".join(verbs), pathlib.Path(file).read_text())

    def test_verbs_are_completed(self):
        verbs = re.findall(r"^  vireo ([a-z-]+)", output(ARGS.vireo, "help"), re.M)
        for file in ARGS.completion:
            self.assertIn(" ".join(verbs), pathlib.Path(file).read_text())

    def test_completion_has_every_option(self):
        for file in ARGS.completion:
            lines = pathlib.Path(file).read_text().splitlines()
            for option, key in listed():
                start = f"{option}|{key}|" if key else f"{option}|"
                self.assertTrue(any(line.startswith(start) for line in lines), f"{file} has no {start}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("spec_doc")
    parser.add_argument("vireo")
    parser.add_argument("--page", nargs="+", default=[])
    parser.add_argument("--completion", nargs="+", default=[])
    ARGS = parser.parse_args()
    unittest.main(argv=sys.argv[:1])
