"""The demo site: a small shop that shows what `notifications` does in an ordinary Django project."""
