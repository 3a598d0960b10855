"""The servers that this project is compared with, each as its own documentation shows it."""
