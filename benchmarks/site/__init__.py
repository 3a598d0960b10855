"""The site that is measured: what ``startproject`` makes, and the lines that docs/install.md adds to it."""
