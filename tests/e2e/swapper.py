"""Swaps directories and files of a tree with symlinks that lead out of it: swapper.py DATA TREE OUTSIDE

As a member of the group who may write there. Ends with its standard input.
"""

import os
import select
import sys

data, relative, outside = sys.argv[1:]
tree = os.path.join(data, relative)
os.umask(0)


def attempt(act, *arguments):
    try:
        return act(*arguments)
    except OSError:
        return []


def swap(name, other):
    attempt(os.rename, name, name + ".real")
    attempt(os.rename, other, name)
    attempt(os.rename, name, other)
    attempt(os.rename, name + ".real", name)


def enter_working_areas():
    for area in attempt(os.listdir, data):
        if area.startswith(".pst-"):
            copy = os.path.join(data, area, relative)
            attempt(os.symlink, outside, os.path.join(copy, "link"))
            swap(os.path.join(copy, "directory"), os.path.join(copy, "link"))
            attempt(os.rename, os.path.join(data, area), os.path.join(data, "taken"))


for name, target in (("to-directory", outside), ("to-file", outside + "/secret")):
    attempt(os.symlink, target, os.path.join(tree, name))
    attempt(os.symlink, target, os.path.join(tree, "directory", name))
print("begun", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    swap(os.path.join(tree, "directory"), os.path.join(tree, "to-directory"))
    swap(os.path.join(tree, "file"), os.path.join(tree, "to-file"))
    swap(os.path.join(tree, "directory", "file"), os.path.join(tree, "directory", "to-file"))
    swap(tree, os.path.join(os.path.dirname(tree), "out"))
    enter_working_areas()
