"""The report: one self-contained HTML page about chosen runs, their mistakes and their data."""

from lib.report.page import LIMIT, build

__all__ = ["LIMIT", "build"]
