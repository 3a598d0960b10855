"""A small shop whose orders move from placed to delivered; an ordinary Django app that uses ``notifications``."""
