"""Tools that generate files of this project: bundled weights, gallery images, notebooks. No recipe needs them."""

import sys

from common.system.packages import explain

if sys.argv[:1] == ["-m"]:
    sys.excepthook = explain
