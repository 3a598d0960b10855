"""This project and its peers side by side: ``make bench`` (see docs/performance.md)."""
